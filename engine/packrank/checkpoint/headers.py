"""Names, dtypes and shapes in a safetensors file, read without a tensor."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packrank.checkpoint.files import check_file
from packrank.errors import ModelError

# The safetensors library takes no longer header either.
_LONGEST = 100_000_000


@dataclass(frozen=True)
class Header:
    """Of one tensor.

    Attributes:
        dtype: as safetensors names it, "F32" or "BF16".
        shape: of the tensor.
    """

    dtype: str
    shape: tuple[int, ...]


def read_headers(path: Path) -> dict[str, Header]:
    """Every tensor of a safetensors file, by name.

    Args:
        path: eight bytes of length, a JSON object, then the data.

    Raises:
        ModelError: no such file, or it is something else.
    """
    check_file(path)
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(_LONGEST, os.fstat(file.fileno()).st_size - 8):
                raise ValueError("its header is longer than the file")
            raw = json.loads(file.read(size))
        return {name: _header(raw[name]) for name in raw if name != "__metadata__"}
    except OSError as error:
        raise unreadable(path, error.strerror) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, reason: Any) -> ModelError:
    """What to raise for a file that is no safetensors."""
    return ModelError(f"{path} cannot be read as safetensors ({reason})")


def _header(entry: Any) -> Header:
    shape = tuple(entry["shape"])
    if not isinstance(entry["dtype"], str) or any(type(size) is not int for size in shape):
        raise ValueError("a tensor has no dtype or no shape")
    return Header(entry["dtype"], shape)
