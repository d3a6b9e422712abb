"""Packrank: a query and its candidates go in, scores come out."""

from packrank.errors import InputError, ModelError, PackrankError, PairError, StoreError
from packrank.explanation import Explanation
from packrank.late_interaction import LateInteraction
from packrank.request import Ranked, RankedId
from packrank.reranker import Reranker
from packrank.store import Store
from packrank.streaming import maxsim
from packrank_kernels import get_num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "Explanation",
    "InputError",
    "LateInteraction",
    "ModelError",
    "PackrankError",
    "PairError",
    "Ranked",
    "RankedId",
    "Reranker",
    "Store",
    "StoreError",
    "__version__",
    "get_num_threads",
    "maxsim",
    "set_num_threads",
]
