"""modules.json of a sentence-transformers folder: its modules, and where the encoder lies."""

from dataclasses import dataclass
from pathlib import Path

from packrank.checkpoint.files import field, inside, read_list, shown
from packrank.errors import ModelError


@dataclass(frozen=True)
class Module:
    """An entry of modules.json.

    Attributes:
        folder: where its files lie.
        type: dotted name of its class.
    """

    folder: Path
    type: str

    @property
    def name(self) -> str:
        """Its class."""
        return self.type.rsplit(".", 1)[-1]


def read_modules(folder: Path) -> list[Module]:
    """The entries of modules.json in order, empty if there is no such file.

    Raises:
        ModelError: it is no list of modules, or names one outside the folder.
    """
    path = folder / "modules.json"
    modules = []
    for entry in read_list(path) if path.is_file() else ():
        if not isinstance(entry, dict):
            raise ModelError(f"{path} lists {shown(entry)}, expected objects only")
        where = field(entry, "path", str, "", path)
        modules.append(Module(inside(folder, where, path), field(entry, "type", str, "", path)))
    return modules


def encoder_folder(folder: Path) -> Path:
    """Where encoder and tokenizer lie: the folder itself, or the one that modules.json names.

    Raises:
        ModelError: modules.json is no list of modules.
    """
    modules = read_modules(folder)
    return modules[0].folder if modules else folder
