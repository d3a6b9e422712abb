"""Work on files: a file in, scores or a store out."""
