"""A JSON object of a folder, and each value in it typed or refused by the file's name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packrank.checkpoint.files import field, read_object, shown
from packrank.errors import ModelError


@dataclass(frozen=True)
class Fields:
    """A JSON object and the file it stands in. Every getter raises ModelError naming both.

    Attributes:
        raw: the object, empty if there is no such file.
        path: the file.
    """

    raw: dict[str, Any]
    path: Path

    @classmethod
    def read(cls, path: Path) -> "Fields":
        """The object in a file, which may be missing."""
        return cls(read_object(path) if path.is_file() else {}, path)

    def text(self, name: str) -> str | None:
        """A string."""
        value: str | None = field(self.raw, name, str, None, self.path)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return bool(field(self.raw, name, bool, default, self.path))

    def count(self, name: str) -> int | None:
        """A whole number of at least 1."""
        value: int | None = field(self.raw, name, int, None, self.path)
        if value is not None and value < 1:
            raise ModelError(f"{self.path}: {name} is {value}, expected at least 1")
        return value

    def texts(self, name: str) -> list[str] | None:
        """A list of strings."""
        values: list[Any] | None = field(self.raw, name, list, None, self.path)
        for value in values or ():
            if not isinstance(value, str):
                raise ModelError(f"{self.path}: {name} holds {shown(value)}, expected strings only")
        return values

    def inner(self, name: str) -> "Fields":
        """An object inside this one."""
        return Fields(field(self.raw, name, dict, {}, self.path), self.path)
