"""Queries sent to whatever answers them, and what became of each."""
