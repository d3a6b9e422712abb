"""Values of a JSON document, held against the types that a dataclass says they have."""

import sys
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

_CALLED = {
    str: "a text",
    bool: "true or false",
    float: "a finite number",
    list: "a list",
    dict: "an object",
}


def typed(kind: Any, value: Any, where: str) -> Any:
    """A value as a kind: Any, str, bool, float, a list or dict of some, or a dataclass of them.

    Args:
        kind: which.
        value: as JSON has it.
        where: of the document it stands, for the error.

    Raises:
        ValueError: it is none, or a field is missing or unknown; says where.
    """
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(kind, typed(dict[str, Any], value, where), where)
    shape: Any = get_origin(kind) or kind
    if not _is_a(shape, value):
        raise ValueError(f"{where} is not {_CALLED[shape]}")
    if shape is list:
        [inner] = get_args(kind)
        return [typed(inner, each, f"{where}[{place}]") for place, each in enumerate(value)]
    if shape is dict:
        inner = get_args(kind)[1]
        return {name: typed(inner, each, f"{where}.{name}") for name, each in value.items()}
    return float(value) if shape is float else value


def _object(kind: Any, value: dict[str, Any], where: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    for name in value:
        if name not in known:
            raise ValueError(f"{where} has an unknown field {name!r}")
    for name, field in known.items():
        if name not in value and field.default is field.default_factory is MISSING:
            raise ValueError(f"{where} has no field {name!r}")
    kinds = get_type_hints(kind)
    return kind(
        **{name: typed(kinds[name], each, f"{where}.{name}") for name, each in value.items()}
    )


def is_number(value: Any) -> bool:
    """Whether it is one that float holds: no infinity, not NaN, true or false."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and -sys.float_info.max <= value <= sys.float_info.max


def _is_a(shape: Any, value: Any) -> bool:
    return is_number(value) if shape is float else isinstance(value, shape)
