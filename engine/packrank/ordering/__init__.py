"""Orders of a query's documents, from answers about several of them at a time."""
