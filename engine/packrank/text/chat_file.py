"""The chat templates that a folder holds, wherever transformers has put them."""

from pathlib import Path

from packrank.checkpoint.files import field, read_object, shown
from packrank.errors import ModelError

_FILE = "chat_template.jinja"
_MORE = "additional_chat_templates"
_CONFIG = "tokenizer_config.json"


def saved_in(folder: Path) -> str | dict[str, str]:
    """The chat template saved with a tokenizer, or several by name.

    Files come before what tokenizer_config.json holds. Source: transformers' from_pretrained.

    Raises:
        ModelError: there is none, or it is no text.
    """
    config = read_object(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    named = {path.stem: path for path in sorted((folder / _MORE).glob("*.jinja"))}
    if (folder / _FILE).is_file():
        named = {"default": folder / _FILE} | named
    if named:
        sources = {name: _read(path) for name, path in named.items()}
        return sources["default"] if list(sources) == ["default"] else sources
    found = field(config, "chat_template", (str, list, dict), None, folder / _CONFIG)
    if isinstance(found, list):
        found = {
            entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)
        }
    if isinstance(found, dict) and found:
        for name, source in found.items():
            if not isinstance(name, str) or not isinstance(source, str):
                raise ModelError(f"{folder / _CONFIG}: chat_template {shown(name)} is no template")
        return found
    if not isinstance(found, str):
        raise ModelError(
            f"{folder} is scored by its chat template, and there is none: neither {_FILE} nor "
            f"chat_template in {_CONFIG}"
        )
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read ({error})") from error
