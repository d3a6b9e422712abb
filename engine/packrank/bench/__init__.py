"""What a machine can do with rerankers, measured, and what holds it back."""
