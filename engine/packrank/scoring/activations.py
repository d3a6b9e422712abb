"""Logits to scores: the activations of rerankers, and the order that each keeps."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import check_choice_or_none
from packrank.checkpoint.config import Activation
from packrank.errors import InputError, ModelError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


_ALL_ONE = "a softmax makes 1.0 of every score of a model that has one label"


def known_activation(name: str, num_labels: int) -> Activation:
    """An activation that can be applied, by its name.

    Args:
        name: of one; or the dotted path of a class of torch that is none of them.
        num_labels: of the model.

    Raises:
        ModelError: it is none, or makes one score of all logits.
    """
    names = ", ".join(map(repr, get_args(Activation)))
    for known in get_args(Activation):
        if name != known:
            continue
        if known == "softmax" and num_labels == 1:
            raise ModelError(f"{_ALL_ONE}; pass activation=, another of {names}")
        return known  # type: ignore[no-any-return]
    raise ModelError(f"activation_fn {name!r} is not supported; pass activation=, one of {names}")


def check_activation(activation: Any, num_labels: int) -> None:
    """Raise InputError unless a caller's activation tells logits apart; None does.

    Args:
        activation: what is to be one.
        num_labels: of the model.
    """
    check_choice_or_none("activation", activation, get_args(Activation))
    if activation == "softmax" and num_labels == 1:
        raise InputError(f"activation is 'softmax', and {_ALL_ONE}; leave it out, or pass another")


def activate(logits: Float32, activation: Activation, shift: float = 0.0) -> Float32:
    """Scores of logits.

    Args:
        logits: [..., labels] float32.
        activation: what turns them into scores; "softmax" over the labels.
        shift: "normalized" scores are sigmoid(logit - shift).

    Returns:
        [..., labels] float32, rounded once; NaN stays NaN.
    """
    if activation == "identity":
        return logits
    x = logits.astype(np.float64)
    if activation == "normalized":
        x = x - shift
    return _FUNCTIONS[activation](x).astype(np.float32)


def best_first(
    logits: Float32, label: int, activation: Activation, shift: float = 0.0
) -> list[tuple[int, float]]:
    """Documents by their scores, best first; of equal ones the lower index comes first.

    Args:
        logits: [N, labels] float32; NaN of documents that have none.
        label: whose scores count.
        activation: see `activate`.
        shift: see `activate`.

    Returns:
        (index, score) of each document that has one.
    """
    keys = order_of(logits, label, activation)
    order = np.argsort(-keys, kind="stable")[: np.count_nonzero(~np.isnan(keys))].tolist()
    scores = activate(logits, activation, shift)[:, label].tolist()
    return [(index, scores[index]) for index in order]


def order_of(logits: Float32, label: int, activation: Activation) -> Float64:
    """What documents are ordered by, so that none that differ are tied by rounding.

    Args:
        logits: [N, labels] float32.
        label: whose scores count.
        activation: what turns logits into scores.

    Returns:
        [N] float64: the logit itself, which every activation rises with; under a softmax that less
        what the other labels come to, which is the logarithm of the odds.
    """
    x = logits.astype(np.float64)
    if activation != "softmax" or x.shape[1] == 1:
        return x[:, label]
    others = np.delete(x, label, axis=1)
    highest = others.max(axis=1)
    odds: Float64 = x[:, label] - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1))
    return odds


def _sigmoid(x: Float64) -> Float64:
    # 1 / (1 + exp(-x)), with no exponential of a positive number that could overflow.
    small = np.exp(-np.abs(x))
    result: Float64 = np.where(x < 0, small, 1.0) / (1.0 + small)
    return result


def _softplus(x: Float64) -> Float64:
    result: Float64 = np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
    return result


def _log_softmax(x: Float64) -> Float64:
    shifted = x - x.max(axis=-1, keepdims=True)
    result: Float64 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


_FUNCTIONS: dict[Activation, Callable[[Float64], Float64]] = {
    "sigmoid": _sigmoid,
    "normalized": _sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "softplus": _softplus,
    "logsigmoid": lambda x: -_softplus(-x),
    "softmax": lambda x: np.exp(_log_softmax(x)),
}
