"""FlagEmbedding's FlagReranker."""

from functools import partial

import numpy as np
import torch

from packrank.bench.peers.classifier import token_limit
from packrank.bench.peers.peer import (
    Logits,
    Peer,
    Task,
    Variant,
    best_batch,
    expect_one_logit,
    need,
)
from packrank.bench.subjects.texts import Pairs

_NAME = "FlagEmbedding"
_BATCH = 32


def variants(task: Task) -> list[Variant]:
    """In the device's precisions."""
    return [
        Variant(f"{_NAME} ({dtype})", dtype, partial(_open, task, dtype))
        for dtype in task.precisions
    ]


def _open(task: Task, dtype: str) -> Peer:
    need(_NAME, f"{_NAME} is not installed; pip install {_NAME}")
    from FlagEmbedding import FlagReranker

    # Of its own it takes the precision of the files, or float16.
    model = FlagReranker(str(task.folder), use_fp16=False, devices=str(task.device))
    model.model.to(getattr(torch, dtype))
    expect_one_logit(model.model.config.num_labels)
    limit = token_limit(model.tokenizer, model.model.config, task.max_length)

    def score(pairs: Pairs, batch: int) -> Logits:
        found = model.compute_score(pairs, batch_size=batch, max_length=limit)
        return np.asarray(found, dtype=np.float32)

    batch = best_batch(task, _BATCH, score)
    return Peer(f"{_NAME} ({dtype}, batch {batch})", dtype, partial(score, batch=batch))
