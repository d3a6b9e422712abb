"""A classifier as transformers loads it, for packages that convert it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from packrank.bench.peers.peer import CannotRun, Task, expect_one_logit, need
from packrank.bench.subjects.texts import Pairs

_BEYOND = 1 << 20  # no model's length: what tokenizers have that know none


@dataclass(frozen=True)
class Classifier:
    """A model in float32 on the CPU, and its tokenizer.

    Attributes:
        module: takes `names` in order, gives logits [N, 1].
        names: of what the tokenizer gives.
        tokenizer: of transformers.
        max_length: tokens that pairs are cut to.
    """

    module: torch.nn.Module
    names: tuple[str, ...]
    tokenizer: Any
    max_length: int

    @property
    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs to trace it with."""
        return tuple(torch.ones(2, 16, dtype=torch.int64) for _ in self.names)

    def read(self, pairs: Pairs) -> dict[str, NDArray[np.int64]]:
        """Ids and masks of a batch, padded to its longest."""
        queries, documents = ([pair[side] for pair in pairs] for side in (0, 1))
        found = self.tokenizer(
            queries, documents, padding=True, truncation=True, max_length=self.max_length,
            return_tensors="np",
        )  # fmt: skip
        return {name: np.asarray(found[name], dtype=np.int64) for name in self.names}


def load(task: Task, attention: str = "sdpa") -> Classifier:
    """The classifier of a folder.

    Args:
        task: what it is for.
        attention: the implementation, by transformers' name.

    Raises:
        CannotRun: transformers is not there, or the folder has no classifier with one label.
    """
    need("transformers", "transformers is not installed; pip install transformers")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    local = {"local_files_only": True, "trust_remote_code": False}
    model, report = AutoModelForSequenceClassification.from_pretrained(
        task.folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True,
        **local,
    )  # fmt: skip
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CannotRun(f"transformers finds no {missing} in the folder")
    expect_one_logit(model.config.num_labels)
    model.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(task.folder, **local)
    names = tuple(tokenizer("a", "b"))
    limit = token_limit(tokenizer, model.config, task.max_length)
    return Classifier(_Logits(model, names).eval(), names, tokenizer, limit)


def token_limit(tokenizer: Any, config: Any, max_length: int | None) -> int:
    """Tokens that a pair may have: as asked for, as the tokenizer says, as positions allow."""
    positions = getattr(config, "max_position_embeddings", None) or _BEYOND
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= config.pad_token_id + 1  # theirs begin after the padding's
    asked = max_length or _BEYOND
    return int(min(asked, positions, getattr(tokenizer, "model_max_length", _BEYOND)))


class _Logits(torch.nn.Module):
    """A classifier by position, which tracing wants."""

    def __init__(self, model: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self._model, self._names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Logits [N, 1]."""
        found = self._model(**dict(zip(self._names, inputs, strict=True)))
        logits: torch.Tensor = found.logits
        return logits
