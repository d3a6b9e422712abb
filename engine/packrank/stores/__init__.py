"""Token embeddings and token ids on disk: written, read, scored where they do not fit in memory."""
