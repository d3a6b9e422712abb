"""How fast: the machine's own ceilings, models in rounds, and where their time goes."""
