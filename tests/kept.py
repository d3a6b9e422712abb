"""What tests compile, kept from run to run under the digest of all that it is made of."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def digest(*parts: object) -> str:
    """Of texts, and of files and folders by what they hold."""
    found = hashlib.sha256()
    for part in parts:
        paths = sorted(part.rglob("*")) if isinstance(part, Path) and part.is_dir() else [part]
        for path in paths:
            is_file = isinstance(path, Path) and path.is_file()
            content = path.read_bytes() if is_file else str(path).encode()
            found.update(f"{len(content)} ".encode() + content)
    return found.hexdigest()[:32]


def kept(path: Path, make: Callable[[Path], object]) -> Path:
    """The file of this name, made if it is not there; whole or not at all."""
    if not path.exists():
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            make(unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path
