"""Token embeddings on disk: written, read, and scored where they do not fit in memory."""
