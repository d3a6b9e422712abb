"""A reranker over a model whose logits can be worked out by hand."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors

from packrank import Reranker
from packrank.checkpoint.config import ModelConfig
from packrank.request import Pack

# Words of the toy language, and what each adds to the logit of the pair it is in.
VALUES = {"[CLS]": 0.0, "[SEP]": 0.0, "q": 0.0, "a": 1.0, "b": 2.0, "c": -3.0, "high": 50.0}
BROKEN = {"nan": float("nan"), "inf": float("inf")}
WORDS = [*VALUES, *BROKEN, "unembedded"]

CONFIG = ModelConfig(
    architecture="BertForSequenceClassification",
    family="bert",
    vocab_size=len(WORDS) - 1,
    hidden_size=1,
    embedding_size=1,
    num_layers=1,
    num_heads=1,
    intermediate_size=1,
    norm_eps=1e-12,
    activation="gelu",
    max_position_embeddings=16,
    type_vocab_size=2,
    pad_token_id=0,
    num_labels=1,
    pooling="cls",
    saved_activation="torch.nn.Identity",
)


class ToyModel:
    """The logit of a pair is the sum of its words' values; label l gets l + 1 times that."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.num_labels = config.num_labels
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.packs: list[int] = []

    def logits(self, pack: Pack) -> torch.Tensor:
        self.packs.append(len(pack.token_ids))
        values = np.array([*VALUES.values(), *BROKEN.values()], dtype=np.float32)[pack.token_ids]
        starts = pack.cu_seqlens
        sums = [values[a:b].sum() for a, b in itertools.pairwise(starts)]
        labels = np.arange(1, self.num_labels + 1, dtype=np.float32)
        return torch.from_numpy(np.outer(np.array(sums, dtype=np.float32), labels))


Open = Callable[..., Reranker]


def toy_opener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """toy(config changes, **options of Reranker): a Reranker over a ToyModel."""
    vocab = {word: i for i, word in enumerate(WORDS)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="q"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    backend.save(str(tmp_path / "tokenizer.json"))

    def load(changes: dict[str, object] | None = None, **options: object) -> Reranker:
        config = replace(CONFIG, **(changes or {}))
        for module in ("checkpoint.kind", "scoring.assembly"):
            monkeypatch.setattr(f"packrank.{module}.load_config", lambda folder: config)
        monkeypatch.setattr("packrank.runtime.fleet.load_model", lambda *a, **k: ToyModel(config))
        return Reranker(tmp_path, **options)

    return load
