"""Values of config.json, each checked where it is read."""

from typing import Any

from packrank.checkpoint.files import field, shown
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


# Where transformers takes a null, which stands for a default, or for nothing of the kind.
_NULLABLE = {
    *("architectures", "auto_map", "exit_layers", "head_dim", "id2label", "layer_types"),
    *("local_rope_theta", "model_type", "num_key_value_heads", "num_labels", "pad_token_id"),
    *("decoder_start_token_id", "num_decoder_layers"),
    *("rope_parameters", "rope_scaling", "sbert_ce_default_activation_function"),
    *("sentence_transformers", "sliding_window"),
}

# Where nothing of a model ends with its positions: what is longer than this fits into no device.
LONGEST = 2**20
# More than any model has, and what sums of two of them do not leave 32 bits with.
MOST, _MOST_LAYERS = 2**30, 2**12
_LARGEST = 3.4e38  # of float32


class ConfigValues:
    """config.json, one value at a time.

    Attributes:
        raw: what the file holds.
        spelling: name -> keys, where a family spells a name otherwise than BERT does; of several
            the first that is there counts.
    """

    def __init__(
        self, raw: dict[str, Any], spelling: dict[str, tuple[str, ...]] | None = None
    ) -> None:
        self.raw = raw
        self.spelling = spelling or {}

    def key(self, name: str) -> str:
        """The key of a name."""
        keys = self.spelling.get(name, (name,))
        return next((key for key in keys if self.raw.get(key) is not None), keys[-1])

    def field(self, key: str, kind: type | tuple[type, ...], default: Any) -> Any:
        """The value of a key, of a type; the default where it is absent, or null and may be."""
        if key in self.raw and self.raw[key] is None and key not in _NULLABLE:
            raise ModelError(f"config.json: {key} is null; give it a value, or take it out")
        return field(self.raw, key, kind, default, "config.json")

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number from 0."""
        key = self.key(name)
        value = self.field(key, int, default)
        if value is None or not 0 <= value <= MOST:
            most = f" of at most {MOST}" if value and value > 0 else ""
            raise ModelError(f"config.json: {key} is {shown(value)}, expected a whole number{most}")
        return int(value)

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number from 1."""
        value = self.number(name, default)
        if value == 0:
            raise ModelError(f"config.json: {self.key(name)} is 0, expected at least 1")
        return value

    def num_layers(self, name: str = "num_hidden_layers", default: int | None = None) -> int:
        """A number of layers that lists of them fit in memory with."""
        layers = self.size(name, default)
        if layers > _MOST_LAYERS:
            key = self.key(name)
            raise ModelError(f"config.json: {key} is {layers}, expected at most {_MOST_LAYERS}")
        return layers

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; the default where the file says nothing."""
        return bool(self.field(key, bool, default))

    def real(self, name: str, default: float) -> float:
        """A number above 0."""
        key = self.key(name)
        return positive(key, self.field(key, float, default))

    def eps(self, name: str, default: float) -> float:
        """A number above 0 and below 1, which is added to a variance."""
        value = self.real(name, default)
        if value >= 1:
            raise ModelError(f"config.json: {self.key(name)} is {value}, expected less than 1")
        return value

    def activation(self, name: str, default: str = "gelu") -> str:
        """The kernels' name of an activation."""
        key = self.key(name)
        return known_activation(key, self.field(key, str, default))


def known_activation(key: str, name: str) -> str:
    """The kernels' name of an activation; refuses what they have not."""
    if name not in _ACTIVATIONS:
        raise ModelError(
            f"config.json: {key} {shown(name)} is not supported; there are "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def positive(key: str, value: float) -> float:
    """The number, if it is one above 0 that float32 can hold."""
    if not 0 < value <= _LARGEST:
        raise ModelError(f"config.json: {key} is {shown(value)}, expected a positive number")
    return float(value)
