"""Packrank: a query and its candidates go in, scores come out."""

from packrank.errors import InputError, ModelError, PackrankError, PairError
from packrank.late_interaction import LateInteraction
from packrank.request import Ranked
from packrank.reranker import Reranker
from packrank_kernels import get_num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "LateInteraction",
    "ModelError",
    "PackrankError",
    "PairError",
    "Ranked",
    "Reranker",
    "__version__",
    "get_num_threads",
    "set_num_threads",
]
