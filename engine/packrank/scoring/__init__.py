"""Which reranker a folder holds, and its pairs to logits."""
