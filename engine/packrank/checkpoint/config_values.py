"""Values of config.json, each checked where it is read."""

import math
from typing import Any

from packrank.checkpoint.files import field
from packrank.errors import ModelError

# transformers' names of activations -> the kernels'. All of gelu_tanh's are one formula.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


class ConfigValues:
    """config.json, one value at a time.

    Attributes:
        raw: what the file holds.
        spelling: name -> key, where a family spells a name otherwise than BERT does.
    """

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.spelling: dict[str, str] = {}

    def field(self, key: str, kind: type | tuple[type, ...], default: Any) -> Any:
        """The value of a key, of a type; the default where it is absent or null."""
        return field(self.raw, key, kind, default, "config.json")

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number from 0."""
        key = self.spelling.get(name, name)
        value = self.field(key, int, default)
        if value is None or value < 0:
            raise ModelError(f"config.json: {key} is {value}, expected a whole number")
        return int(value)

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number from 1."""
        value = self.number(name, default)
        if value == 0:
            raise ModelError(f"config.json: {self.spelling.get(name, name)} is 0")
        return value

    def real(self, name: str, default: float) -> float:
        """A number above 0."""
        key = self.spelling.get(name, name)
        return positive(key, self.field(key, float, default))

    def activation(self, name: str) -> str:
        """The kernels' name of an activation; gelu where the file says nothing."""
        key = self.spelling.get(name, name)
        return known_activation(key, self.field(key, str, "gelu"))


def known_activation(key: str, name: str) -> str:
    """The kernels' name of an activation; refuses what they have not."""
    if name not in _ACTIVATIONS:
        raise ModelError(
            f"config.json: {key} {name!r} is not supported; there are {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def positive(key: str, value: float) -> float:
    """The number, if it is one above 0."""
    if not math.isfinite(value) or value <= 0:
        raise ModelError(f"config.json: {key} is {value}, expected a positive number")
    return float(value)
