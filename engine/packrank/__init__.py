"""Packrank: a query and its candidates go in, scores come out."""

from packrank.drop_in.cross_encoder import CrossEncoder
from packrank.drop_in.flag_reranker import FlagReranker
from packrank.errors import InputError, ModelError, PackrankError, PairError, StoreError
from packrank.exits.margins import Margins
from packrank.late.explanation import Explanation
from packrank.late_interaction import LateInteraction
from packrank.request import Ranked, RankedId, Ranking
from packrank.reranker import Reranker
from packrank.stores.store import Store
from packrank.stores.streaming import maxsim
from packrank.stores.writer import StoreWriter
from packrank.text.templates import TEMPLATES
from packrank.work import Work
from packrank_kernels import get_num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "TEMPLATES",
    "CrossEncoder",
    "Explanation",
    "FlagReranker",
    "InputError",
    "LateInteraction",
    "Margins",
    "ModelError",
    "PackrankError",
    "PairError",
    "Ranked",
    "RankedId",
    "Ranking",
    "Reranker",
    "Store",
    "StoreError",
    "StoreWriter",
    "Work",
    "__version__",
    "get_num_threads",
    "maxsim",
    "set_num_threads",
]
