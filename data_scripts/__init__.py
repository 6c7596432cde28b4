"""Get or prepare data: download, verify, unpack. Run as `python -m data_scripts.NAME` from the repository's root."""
