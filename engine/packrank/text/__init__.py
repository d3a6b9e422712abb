"""Texts to the ids that a model reads: tokenizer, layouts of pairs, prompts of decoders."""
