"""A sample of texts with judgements, the model to try it with, and what a baseline makes of it."""

from packrank.demo.model import default_model

__all__ = ["default_model"]
