"""What tests compile, kept from run to run under the digest of all that it is made of."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def digest(*parts: object) -> str:
    """Of values by their text, and of files and folders by their names and what they hold."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            paths = sorted(part.rglob("*")) if part.is_dir() else [part]
            named = {path.relative_to(part.parent): path for path in paths if path.is_file()}
            pieces = [(str(name).encode(), path.read_bytes()) for name, path in named.items()]
        else:
            pieces = [(b"", repr(part).encode())]
        for name, content in pieces:
            found.update(b"%d %b %d %b" % (len(name), name, len(content), content))
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
