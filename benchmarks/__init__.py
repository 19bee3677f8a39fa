"""Speed, measured where it is wanted and never asserted in a test: `make bench`."""
