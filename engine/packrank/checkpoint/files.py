"""JSON files of a model folder: what is in them, or one sentence on what should be."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packrank.errors import ModelError

_LARGEST = 10**300  # what is larger may be no float
_KINDS = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "a string",
}
_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB_PAGES = (b"<!doctype html", b"<html")


def check_file(path: Path) -> None:
    """Make sure that a file can be what its name says, before anything waits for it or parses it.

    Raises:
        ModelError: it is missing, no regular file, a Git LFS pointer, or a web page.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelError(f"{path} cannot be read (it is no regular file)")
        with open(path, "rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}; pass the folder of a model") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # a name that no file can have
        raise ModelError(f"{shown(str(path))} cannot be read ({error})") from error
    if start.startswith(_POINTER):
        raise ModelError(
            f"{path} is a Git LFS pointer, not the file; run: git lfs pull in {path.parent}"
        )
    if start.lstrip().lower().startswith(_WEB_PAGES):
        raise ModelError(f"{path} is a web page, not the file; download it again")


def inside(folder: Path, name: str, where: str | Path) -> Path:
    """A file or folder that a model's own file names, which must lie in the model's folder.

    A link may lead out of it into the hub's cache alone, where a snapshot's files are links to
    blobs.

    Args:
        folder: of the model.
        name: relative to it, with slashes; empty for the folder itself.
        where: what names it, for the message.

    Raises:
        ModelError: the name leads elsewhere.
    """
    parts = name.replace("\\", "/").split("/")
    try:
        name.encode()
        path = folder / name
        real, home = os.path.realpath(path), os.path.realpath(folder)
    except ValueError as error:  # NUL, or what is no text
        raise ModelError(f"{where} names {shown(name)}, which no file can be called") from error
    if os.path.isabs(name) or ".." in parts or ":" in parts[0]:
        raise ModelError(f"{where} names {shown(name)}, which is outside its folder")
    if os.path.commonpath([real, home]) != home and not _is_cached(path):
        raise ModelError(f"{where} names {shown(name)}, a link to {real}, outside its folder")
    return path


def _is_cached(path: Path) -> bool:
    """Whether a file is a link into the hub's cache: models--organisation--name/blobs/hash."""
    if not path.is_symlink():
        return False
    target = Path(os.path.normpath(os.path.join(os.path.realpath(path.parent), os.readlink(path))))
    return target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")


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
    if isinstance(value, int) and float in kinds and abs(value) > _LARGEST:
        raise ModelError(f"{where}: {name} is {shown(value)}, more than any number that is read")
    return value


def shown(value: object) -> str:
    """A value for a message, cut to a length that fits one."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} in which others lie too deep"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read(path: Path) -> Any:
    check_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error})") from error
