"""JSON files of a model folder: what is in them, or one sentence on what should be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packrank.errors import ModelError

_KINDS = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "a string",
}


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: the file is missing, cannot be read, or holds something else.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, expected a JSON object")
    return content


def read_list(path: Path) -> list[Any]:
    """The list in a JSON file.

    Raises:
        ModelError: the file is missing, cannot be read, or holds something else.
    """
    content = _read(path)
    if not isinstance(content, list):
        raise ModelError(f"{path} holds a {type(content).__name__}, expected a JSON list")
    return content


def field(
    raw: Mapping[str, Any],
    name: str,
    kind: type | tuple[type, ...],
    default: Any,
    where: str | Path,
) -> Any:
    """One value of an object.

    Args:
        raw: the object.
        name: the key.
        kind: the type the value must have, or several. A bool is not an int, an int is a float.
        default: the value where the key is absent or null.
        where: what the object is, for the message.

    Raises:
        ModelError: the value is of another type.
    """
    value = raw.get(name)
    if value is None:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(_KINDS[one] for one in kinds)
        raise ModelError(f"{where}: {name} is {shown(value)}, expected {expected}")
    return value


def shown(value: object) -> str:
    """A value for a message, cut to a length that fits one."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}; pass the folder of a model") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error})") from error
