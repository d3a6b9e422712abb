"""A folder's scores against those of other packages, and against published ones."""
