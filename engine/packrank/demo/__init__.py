"""A sample of texts with judgements, the model to try it with, and what a baseline makes of it."""

from packrank.demo.extra import default_model

__all__ = ["default_model"]
