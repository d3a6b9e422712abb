"""What tells the files of one model from those of another."""

import hashlib
from pathlib import Path

from packrank.checkpoint.adapter import base_folder
from packrank.checkpoint.modules import read_modules
from packrank.checkpoint.transformer_file import TRANSFORMER_FILES

# What is read of a model: weights, settings and vocabulary.
_MODEL_FILES = {
    "adapter_config.json",
    "added_tokens.json",
    "artifact.metadata",
    "chat_template.jinja",
    "config.json",
    "config_sentence_transformers.json",
    "merges.txt",
    "model.safetensors.index.json",
    "modules.json",
    *TRANSFORMER_FILES,
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
}
_BLOCK = 1 << 20


def fingerprint(folder: Path) -> str:
    """SHA-256, in hexadecimal, of the files that make a model: weights, settings and vocabulary.

    Args:
        folder: holds them, or names those that do in modules.json, or an adapter's base; they are
            read whole.
    """
    digest = hashlib.sha256()
    modules = read_modules(folder)
    bases = (base_folder(part) for part in (folder, *(module.folder for module in modules)))
    folders = dict.fromkeys((folder, *(module.folder for module in modules), *bases))
    for place, part in enumerate(folders):
        paths = sorted(part.glob("*")) + sorted(part.glob("additional_chat_templates/*.jinja"))
        for path in paths:  # a folder may be missing
            counts = path.name in _MODEL_FILES or path.suffix in (".safetensors", ".jinja")
            if path.is_file() and counts:
                digest.update(f"{place}/{path.name} {path.stat().st_size}\n".encode())
                with open(path, "rb") as file:
                    while block := file.read(_BLOCK):
                        digest.update(block)
    return digest.hexdigest()
