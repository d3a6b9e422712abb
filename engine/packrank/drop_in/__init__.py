"""Other libraries' names for scoring pairs, for code that was written for those."""
