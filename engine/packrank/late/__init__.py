"""Late interaction: what its folders ask for, texts to token vectors, explanations."""
