"""Other packages that score the same pairs, each opened as well as it can be."""
