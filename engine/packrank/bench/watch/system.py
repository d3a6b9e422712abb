"""What the system says of itself in files, where they are and may be read."""

from pathlib import Path


class System:
    """The files below a root; of those that are missing or forbidden, nothing is known."""

    def __init__(self, root: str | Path = "/") -> None:
        self._root = Path(root)

    def text(self, path: str) -> str | None:
        """What a file has."""
        try:
            return (self._root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """What a file has, if that is an integer."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        """What a folder has, in order."""
        try:
            return sorted(entry.name for entry in (self._root / path).iterdir())
        except OSError:
            return []
