"""What only the config.json of gte-multilingual says, in transformers' names or its authors'."""

from dataclasses import dataclass
from typing import Any

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
    """rope_scaling as the authors' files have it, rope_parameters as transformers 5 saves them."""
    given = {key: config.field(key, dict, None) for key in ("rope_scaling", "rope_parameters")}
    said = {key: _stretched(config, key, one) for key, one in given.items() if one}
    if len(set(said.values())) > 1:
        both = " and ".join(f"{key} {shown(given[key])}" for key in said)
        raise ModelError(f"config.json: {both} do not say the same; remove one")
    return next(iter(said.values()), GteOptions(config.real("rope_theta", _THETA["new"])))


def _stretched(config: ConfigValues, key: str, given: dict[str, Any]) -> GteOptions:
    """What one of the two objects says."""
    where = f"config.json: {key}"
    beside = config.real("rope_theta", _THETA["new"])
    theta = positive("rope_theta", field(given, "rope_theta", float, beside, where))
    if "rope_theta" in config.raw and theta != beside:
        raise ModelError(f"{where}: rope_theta is {theta:g}, and {beside:g} beside it; remove one")
    others = {one: value for one, value in given.items() if one != "rope_theta"}
    if all(value == _UNSCALED.get(one) for one, value in others.items()):
        return GteOptions(theta)
    kinds = {one: others.pop(one) for one in ("type", "rope_type") if one in others}
    mixed, factor = others.pop("mixed_b", None), field(others, "factor", float, None, where)
    if others.keys() != {"factor"} or set(map(str, kinds.values())) != {"ntk"} or factor is None:
        raise ModelError(
            f"{where} {shown(given)} is not supported; there is the type ntk, with a factor and, "
            "if need be, mixed_b"
        )
    if positive("factor", factor) < 1:
        raise ModelError(f"{where}: factor is {factor}, expected at least 1")
    if mixed is not None:
        mixed = positive("mixed_b", field(given, "mixed_b", float, None, where))
    # With a factor of 1 the authors' table is no longer than the model, and is not scaled.
    return GteOptions(theta, float(factor), None if factor == 1 else mixed)
