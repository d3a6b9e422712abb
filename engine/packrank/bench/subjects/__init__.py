"""Models that are measured: their sizes, their weights, what they read."""
