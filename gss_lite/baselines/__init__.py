"""Systems that GSS is compared with, built from the same parts."""
