"""What a job knows of its model, wherever that runs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from packrank.checkpoint.config import Activation
from packrank.documents import Tokenization
from packrank.errors import InputError
from packrank.late_interaction import LateInteraction
from packrank.ordering.joint_ranker import JointRanker
from packrank.reranker import Reranker
from packrank.scoring.activations import activate, order_of

Found = tuple[NDArray[np.float32], dict[int, str]]


class Stream(Protocol):
    """Of each batch of pairs its logits, and index -> reason of those that have none."""

    def __iter__(self) -> Iterator[Found]: ...

    def __next__(self) -> Found: ...

    def close(self) -> None:
        """End what makes them."""


@dataclass(frozen=True)
class Facts:
    """How a model's logits are read.

    Attributes:
        labels: names of the scores of a pair.
        activation: logits to scores; None in late interaction, whose scores stand for logits.
        shift: of the activation.
        tokenization: what determines the token ids of a document; None where tokens are not taken.
        exit_layers: after how many layers there is a head.
    """

    labels: tuple[str, ...]
    activation: Activation | None
    shift: float = 0.0
    tokenization: Tokenization | None = None
    exit_layers: tuple[int, ...] = ()

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of logits [N, labels] float32, of the same shape."""
        if self.activation is None:
            return logits
        return activate(logits, self.activation, self.shift)

    def keys(self, logits: NDArray[np.float32], label: int) -> NDArray[np.float64]:
        """What documents are ordered by, [N] float64; see `order_of`."""
        if self.activation is None:
            return logits[:, label].astype(np.float64)
        return order_of(logits, label, self.activation)


class Remote(ABC):
    """A model that runs in other processes.

    Attributes:
        facts: how its logits are read.
        about: what determines logits, as `about` says it of a model that is here.
        num_tokens: that it has read for us, special ones included.
    """

    facts: Facts
    about: dict[str, Any]
    num_tokens: int

    @abstractmethod
    def score_stream(
        self, batches: Iterator[Sequence[tuple[str, str]]], *, cutoff_layer: int | None
    ) -> Stream:
        """See `Reranker.score_stream`."""

    def check(self, cutoff_layer: int | None) -> None:
        """Raise InputError unless there is a head after so many layers."""
        layers = self.facts.exit_layers
        if cutoff_layer is not None and cutoff_layer not in layers:
            known = ", ".join(map(str, layers)) or "all"
            raise InputError(
                f"cutoff_layer is {cutoff_layer!r}, and the model has heads after {known} layers"
            )


Scorer = Reranker | LateInteraction
Ranker = Scorer | JointRanker
AnyScorer = Scorer | Remote


def facts_of(model: AnyScorer) -> Facts:
    """How a model's logits are read."""
    if isinstance(model, Remote):
        return model.facts
    if isinstance(model, Reranker):
        said = model.labels, model.activation, model.shift, model.tokenization
        return Facts(*said, model.exit_layers)
    return Facts(("score",), None)


def about(model: AnyScorer) -> dict[str, Any]:
    """What determines logits, by names that a message may use; JSON holds it.

    Where it is equal, one model may end a job that another began. Weights are read whole.
    """
    if isinstance(model, Remote):
        return model.about
    if isinstance(model, Reranker):
        return model.identity
    return {
        **{key: value for key, value in model.identity.items() if key != "name"},
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "settings of queries": repr(model.settings.query),
    }
