"""Experiments behind the run records that the notebooks read; each is a command, python -m gss_lite.experiments.NAME."""
