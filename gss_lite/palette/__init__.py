"""X, the palette: class → colour (supplement, section B)."""
