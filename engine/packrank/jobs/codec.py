"""A codec for a file of documents, trained on a sample of them."""

import os

import numpy as np
import torch

from packrank.errors import InputError
from packrank.jobs.documents import Documents, windows_of
from packrank.late.encoder import finite_vectors
from packrank.late_interaction import LateInteraction
from packrank.stores.codec_training import check_faiss, num_centroids, train_codec
from packrank_kernels import Codec

_SEED = 123
_SAMPLE_DOCUMENTS = 1 << 15
_SAMPLE_CHARACTERS = 1 << 26
_SAMPLE_VALUES = 1 << 27  # 512 MB
_SAMPLE_TOKENS_PER_CENTROID = 64


def codec_for(
    model: LateInteraction, documents: Documents, bits: int, centroids: int | None
) -> Codec:
    """A codec for documents, trained on some of them, which are encoded for that."""
    check_faiss()
    if not os.path.isfile(documents.path):
        raise InputError(
            f"formats 8bit to 1bit are trained on documents before they are encoded, and "
            f"{documents.path} cannot be read twice; give a file"
        )
    texts, total = sample_of(documents)
    limit = _SAMPLE_VALUES // model.size
    sample, tokens, used = np.empty((limit, model.size), np.float32), 0, 0
    count = centroids or 1
    for window in windows_of(texts):
        for x in finite_vectors(model, list(window), "float32")[0]:
            if x is not None and tokens < limit:
                rows = x[: limit - tokens].float().cpu().numpy()
                sample[tokens : tokens + len(rows)] = rows
                tokens, used = tokens + len(rows), used + 1
        if centroids is None:
            count = num_centroids(total * tokens / max(used, 1))
        if tokens >= min(limit, count * _SAMPLE_TOKENS_PER_CENTROID):
            break
    if not tokens:
        raise InputError(f"{documents.path} holds no document to train a codec on")
    return train_codec(torch.from_numpy(sample[:tokens]), bits, count)


def sample_of(documents: Documents) -> tuple[list[str], int]:
    """Texts of some lines, in an order of chance that is always the same; and lines in all."""
    with documents.open() as file:
        total = size = 0
        for part in file.raw():
            total, size = total + 1, size + len(part.raw)
        # No more than there is room for, or the room would go to the first lines.
        room = _SAMPLE_CHARACTERS * total // max(size, 1)
        count = min(total, _SAMPLE_DOCUMENTS, max(room, 1))
        random = np.random.default_rng(_SEED)
        wanted = np.zeros(total, dtype=bool)
        wanted[random.choice(total, count, replace=False)] = True
        texts: list[str] = []
        characters = 0
        file.rewind()
        parts = zip(file.raw(), wanted, strict=False)
        some = (part if take else part._replace(raw=b"") for part, take in parts)
        for record in file.records(some):
            if record.error is None and characters < _SAMPLE_CHARACTERS:
                texts.append(str(record.fields["text"]))
                characters += len(texts[-1])
    return [texts[i] for i in random.permutation(len(texts))], total
