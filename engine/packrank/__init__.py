"""Packrank: a query and its candidates go in, scores come out.

A name is imported when it is first asked for (PEP 562): torch takes seconds, and what needs none
of it, such as the command line's help, does not wait.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packrank.drop_in.cross_encoder import CrossEncoder
    from packrank.drop_in.flag_reranker import FlagReranker
    from packrank.errors import (
        DeadlineExceeded,
        EngineClosed,
        InputError,
        JobError,
        ModelError,
        Overloaded,
        PackrankError,
        PairError,
        StoreError,
    )
    from packrank.exits.margins import Margins
    from packrank.jobs.job import Job
    from packrank.jobs.settings import Summary
    from packrank.late.explanation import Explanation
    from packrank.late_interaction import LateInteraction
    from packrank.listwise import Listwise
    from packrank.pairwise import Pairwise
    from packrank.request import Ranked, RankedId, Ranking
    from packrank.reranker import Reranker
    from packrank.serving.engine import Engine
    from packrank.setwise import Setwise
    from packrank.stores.store import Store
    from packrank.stores.streaming import maxsim
    from packrank.stores.token_store import TokenStore
    from packrank.stores.writer import StoreWriter
    from packrank.text.templates import TEMPLATES
    from packrank.work import Calls, Work
    from packrank_kernels import get_num_threads, set_num_threads
else:
    # Where each of the names above is.
    _HOMES = {
        "TEMPLATES": "packrank.text.templates",
        "Calls": "packrank.work",
        "CrossEncoder": "packrank.drop_in.cross_encoder",
        "DeadlineExceeded": "packrank.errors",
        "Engine": "packrank.serving.engine",
        "EngineClosed": "packrank.errors",
        "Explanation": "packrank.late.explanation",
        "FlagReranker": "packrank.drop_in.flag_reranker",
        "InputError": "packrank.errors",
        "Job": "packrank.jobs.job",
        "JobError": "packrank.errors",
        "LateInteraction": "packrank.late_interaction",
        "Listwise": "packrank.listwise",
        "Margins": "packrank.exits.margins",
        "ModelError": "packrank.errors",
        "Overloaded": "packrank.errors",
        "PackrankError": "packrank.errors",
        "PairError": "packrank.errors",
        "Pairwise": "packrank.pairwise",
        "Ranked": "packrank.request",
        "RankedId": "packrank.request",
        "Ranking": "packrank.request",
        "Reranker": "packrank.reranker",
        "Setwise": "packrank.setwise",
        "Store": "packrank.stores.store",
        "StoreError": "packrank.errors",
        "StoreWriter": "packrank.stores.writer",
        "Summary": "packrank.jobs.settings",
        "TokenStore": "packrank.stores.token_store",
        "Work": "packrank.work",
        "get_num_threads": "packrank_kernels",
        "maxsim": "packrank.stores.streaming",
        "set_num_threads": "packrank_kernels",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "importlib"})


__version__ = "0.1.0"

__all__ = [
    "TEMPLATES",
    "Calls",
    "CrossEncoder",
    "DeadlineExceeded",
    "Engine",
    "EngineClosed",
    "Explanation",
    "FlagReranker",
    "InputError",
    "Job",
    "JobError",
    "LateInteraction",
    "Listwise",
    "Margins",
    "ModelError",
    "Overloaded",
    "PackrankError",
    "PairError",
    "Pairwise",
    "Ranked",
    "RankedId",
    "Ranking",
    "Reranker",
    "Setwise",
    "Store",
    "StoreError",
    "StoreWriter",
    "Summary",
    "TokenStore",
    "Work",
    "__version__",
    "get_num_threads",
    "maxsim",
    "set_num_threads",
]
