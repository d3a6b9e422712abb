"""A tokenizer from the files of a model folder, and what tokenizer_config.json says beside it."""

import itertools
import math
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from packrank.checkpoint.files import field, read_object
from packrank.errors import ModelError

_CONFIG = "tokenizer_config.json"

# Some tokenizer_config.json files write "no limit" as 10**30.
_NO_LIMIT = 10**9

# WordPiece over a BERT normalizer, laid out [CLS] A [SEP] B [SEP].
_BERT_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")

# What a special token is called where no file says.
_USUAL_NAMES = {
    "bos": ("<bos>", "<s>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
    "unk": ("[UNK]", "<unk>"),
}


def load_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer in a folder; and contents of tokenizer_config.json, for the functions below.

    Args:
        folder: holds tokenizer.json; or the vocab.txt of a BERT WordPiece; or what
            transformers, if installed, can convert.

    Raises:
        ModelError: there is no tokenizer, or it cannot be read.
    """
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", _CONFIG):
        if (folder / name).is_file():
            config |= read_object(folder / name)
    return _load(folder, config), config


def truncation_side(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> str:
    """Where a text that is too long is cut: "left" or "right"."""
    stored = backend.truncation or {}
    side = _field(config, "truncation_side", str) or stored.get("direction") or "right"
    if side not in ("left", "right"):
        raise ModelError(f"truncation_side is {side!r}, expected 'left' or 'right'")
    return str(side)


def has_token_types(config: dict[str, Any]) -> bool:
    """Whether the model is told which text a token is of."""
    names = _field(config, "model_input_names", list) or ["token_type_ids"]
    return "token_type_ids" in names


def length_limit(config: dict[str, Any]) -> int | None:
    """Most tokens of a sequence; None if there is no limit."""
    limit = _field(config, "model_max_length", float)
    if limit is None:
        limit = _field(config, "max_len", float)
    if limit is None or limit > _NO_LIMIT:
        return None
    if math.isnan(limit) or limit < 1:
        raise ModelError(f"{_CONFIG}: model_max_length is {limit}, expected a positive number")
    return int(limit)


def special_token_id(
    backend: tokenizers.Tokenizer, role: str, config: dict[str, Any]
) -> int | None:
    """The id of the special token that plays a role, "cls" or the like; None if there is none."""
    if f"{role}_token" in config:  # null says that there is none
        token = _special_token(config, role)
        return None if token is None else backend.token_to_id(token)
    # Only among added special tokens: "[CLS]" may be plain text in another vocabulary.
    added = backend.get_added_tokens_decoder()
    known = {entry.content: token_id for token_id, entry in added.items() if entry.special}
    return next((known[name] for name in _USUAL_NAMES[role] if name in known), None)


def _load(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    name = (_field(config, "tokenizer_class", str) or "BertTokenizer").removesuffix("Fast")
    bert = name in _BERT_CLASSES
    if (folder / "tokenizer.json").is_file():
        backend = _from_json(folder / "tokenizer.json")
        if bert and isinstance(backend.normalizer, normalizers.BertNormalizer):
            backend.normalizer = _bert_normalizer(config, backend.normalizer)
        return backend
    if bert and (folder / "vocab.txt").is_file():
        return _from_vocab(folder / "vocab.txt", config)
    if any(itertools.chain(folder.glob("vocab.*"), folder.glob("*.model"))):
        return _from_transformers(folder)
    raise ModelError(
        f"{folder} has no tokenizer: expected tokenizer.json, or vocab.txt of a BERT WordPiece"
    )


def _from_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read as a tokenizer: {_line(error)}") from error


def _from_vocab(path: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT WordPiece, as transformers' BertTokenizer builds it from the same files."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} cannot be read as a vocabulary: {error}") from error
    vocab = {token: token_id for token_id, token in enumerate(lines)}
    special = {
        role: _special_token(config, role) or names[0] for role, names in _USUAL_NAMES.items()
    }
    missing = [special[role] for role in ("cls", "sep", "unk") if special[role] not in vocab]
    if missing:
        raise ModelError(f"{path} is not a BERT vocabulary: it lacks {', '.join(missing)}")
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=special["unk"]))
    backend.normalizer = _bert_normalizer(config, normalizers.BertNormalizer())
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = special["cls"], special["sep"]
    backend.post_processor = processors.BertProcessing((sep, vocab[sep]), (cls, vocab[cls]))
    backend.add_special_tokens([token for token in special.values() if token in vocab])
    return backend


def _bert_normalizer(
    config: dict[str, Any], stored: normalizers.BertNormalizer
) -> normalizers.BertNormalizer:
    """A stored normalizer in which what tokenizer_config.json says has the last word."""
    return normalizers.BertNormalizer(
        clean_text=stored.clean_text,
        handle_chinese_chars=_flag(config, "tokenize_chinese_chars", stored.handle_chinese_chars),
        strip_accents=_field(config, "strip_accents", bool)
        if "strip_accents" in config
        else stored.strip_accents,
        lowercase=_flag(config, "do_lower_case", stored.lowercase),
    )


def _from_transformers(folder: Path) -> tokenizers.Tokenizer:
    advice = "save the tokenizer as tokenizer.json with transformers' save_pretrained"
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ModelError(
            f"{folder} has no tokenizer.json, and transformers, which might convert what it has, "
            f"is not installed; install it, or {advice}"
        ) from None
    try:
        wrapper = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        return tokenizers.Tokenizer.from_str(wrapper.backend_tokenizer.to_str())
    except Exception as error:  # whatever the tokenizer classes of another library raise
        raise ModelError(
            f"{folder} has no tokenizer.json, and transformers cannot convert what it has "
            f"({_line(error)}); {advice}"
        ) from error


def _special_token(config: dict[str, Any], role: str) -> str | None:
    """The text of a special token, which the files spell as a string or an object."""
    name = f"{role}_token"
    token = _field(config, name, (str, dict))
    if isinstance(token, dict):
        token = field(token, "content", str, None, f"{_CONFIG}: {name}")
    return None if token is None else str(token)


def _field(config: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    return field(config, name, kind, None, _CONFIG)


def _flag(config: dict[str, Any], name: str, default: bool) -> bool:
    return bool(field(config, name, bool, default, _CONFIG))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
