"""What only the config.json of gte-multilingual says, in transformers' names or its authors'."""

from dataclasses import dataclass

from packrank.checkpoint.config_values import ConfigValues, positive
from packrank.checkpoint.files import field, shown
from packrank.errors import ModelError

_THETA = {"gte": 160_000.0, "new": 10_000.0}
_UNSCALED = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}


@dataclass(frozen=True)
class GteOptions:
    """Rotary positions.

    Attributes:
        theta: base of the frequencies.
        factor: by which positions are stretched; 1: they are not.
        mixed: the exponent of NTK's mixed form, or None.
    """

    theta: float
    factor: float = 1.0
    mixed: float | None = None


def read_gte(config: ConfigValues, model_type: str) -> GteOptions:
    """The options of a gte.

    Raises:
        ModelError: the config asks for what is not supported, or makes no sense.
    """
    head_size = config.size("hidden_size") // config.size("num_attention_heads")
    if head_size % 2:
        raise ModelError(
            f"config.json: heads have the odd size {head_size}, which rotary positions cannot halve"
        )
    if model_type == "gte" and config.size("head_dim", head_size) != head_size:
        raise ModelError(
            f"config.json: head_dim is {config.size('head_dim')}, and the model has {head_size}"
        )
    return _native(config) if model_type == "gte" else _original(config)


def _native(config: ConfigValues) -> GteOptions:
    given = config.field("rope_parameters", dict, {})
    scaling = config.raw.get("rope_scaling")
    if scaling is not None or any(
        value is None or value != _UNSCALED.get(key, value) for key, value in given.items()
    ):
        raise ModelError(f"config.json: rope scaling {shown(scaling or given)} is not supported")
    theta = field(given, "rope_theta", float, None, "config.json")
    if theta is None:
        theta = config.real("rope_theta", _THETA["gte"])
    return GteOptions(positive("rope_theta", theta))


def _original(config: ConfigValues) -> GteOptions:
    theta = config.real("rope_theta", _THETA["new"])
    scaling = config.field("rope_scaling", dict, None)
    if scaling is None:
        return GteOptions(theta)
    where = "config.json: rope_scaling"
    kind = field(scaling, "type", str, None, where)
    factor = positive("factor", field(scaling, "factor", float, 0.0, where))
    mixed = scaling.get("mixed_b")
    if kind != "ntk" or not scaling.keys() <= {"type", "factor", "mixed_b"} or factor < 1:
        raise ModelError(f"{where} {shown(scaling)} is not supported; there is ntk")
    if mixed is not None:
        mixed = positive("mixed_b", field(scaling, "mixed_b", float, None, where))
    # With a factor of 1 the authors' table is no longer than the model, and is not scaled.
    return GteOptions(theta, factor, None if factor == 1 else mixed)
