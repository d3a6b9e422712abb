"""A tokenizer from the files of a model folder, as transformers' AutoTokenizer makes it of them."""

import json
import math
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, processors

from packrank.checkpoint.added_tokens import ROLES, NamedTokens, read_tokens, str_of
from packrank.checkpoint.files import check_file, field, read_object, shown
from packrank.checkpoint.tokenizer_classes import (
    BACKEND,
    BERT,
    DISTILBERT,
    TokenizerClass,
    class_of,
)
from packrank.errors import ModelError

_CONFIG = "tokenizer_config.json"
_VOCABULARIES = ("vocab.*", "*.model", "tekken.json")
_OWN = "model_specific_special_tokens"
_ADVICE = "save the tokenizer as tokenizer.json with transformers' save_pretrained"

# Some tokenizer_config.json files write "no limit" as 10**30.
_NO_LIMIT = 10**9

# Arguments that transformers would take from the file though it never writes them there.
_STRANGE = (
    "gguf_file",
    "init_inputs",
    "merges",
    _OWN,
    "post_processor",
    "tokenizer_object",
    "tokenizer_padding",
    "tokenizer_truncation",
    "vocab",
)
_MISTRAL = (None, "mistral", "mistral3", "voxtral", "ministral", "pixtral")


def load_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer in a folder, and what the functions below read of its settings.

    Args:
        folder: holds tokenizer.json; or the vocab.txt of a BERT WordPiece; or what
            transformers, if installed, can convert.

    Returns:
        The tokenizer, of which nothing is random; and the arguments that it was made with, null
        where they name no special token.

    Raises:
        ModelError: there is no tokenizer, it cannot be read, or it asks for what is not supported.
    """
    for kind in _VOCABULARIES:
        for path in folder.glob(kind):
            check_file(path)
    config = _object(folder / _CONFIG)
    path = folder / "tokenizer.json"
    source = _text(path) if path.is_file() else None
    chosen = class_of(
        config,
        _object(folder / "config.json"),
        lambda: source is not None and '"ByteLevel"' in source,
    )
    _check_config(config)
    if chosen is None:
        return _from_transformers(folder, f"{_CONFIG} asks for a {config.get('tokenizer_class')}")
    if source is not None:
        backend, arguments = _from_json(folder, config, source, chosen)
    elif chosen in (BERT, DISTILBERT, BACKEND) and (folder / "vocab.txt").is_file():
        backend, arguments = _from_vocab(folder, config, BERT if chosen is BACKEND else chosen)
    elif any(next(folder.glob(kind), None) for kind in _VOCABULARIES):
        return _from_transformers(folder, f"{folder} has no tokenizer.json")
    else:
        raise ModelError(
            f"{folder} has no tokenizer: expected tokenizer.json, or vocab.txt of a BERT WordPiece"
            + ("; GGUF files are not read" if next(folder.glob("*.gguf"), None) else "")
        )
    _check_regex(folder, backend, arguments)
    return backend, arguments


def truncation_side(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> str:
    """Where a text that is too long is cut: "left" or "right"."""
    return _side("truncation_side", backend.truncation, config)


def padding_side(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> str:
    """Where a text is filled up to the length of others: "left" or "right"."""
    return _side("padding_side", backend.padding, config)


def _side(name: str, stored: dict[str, Any] | None, config: dict[str, Any]) -> str:
    side = _field(config, name, str) or (stored or {}).get("direction") or "right"
    if side not in ("left", "right"):
        raise ModelError(f"{name} is {side!r}, expected 'left' or 'right'")
    return str(side)


def has_token_types(config: dict[str, Any]) -> bool:
    """Whether the model is told which text a token is of."""
    names = field(config, "model_input_names", list, ["token_type_ids"], _CONFIG)
    return "token_type_ids" in names


def length_limit(config: dict[str, Any]) -> int | None:
    """Most tokens of a sequence; None if there is no limit."""
    limit = _field(config, "model_max_length" if "model_max_length" in config else "max_len", float)
    if limit is None or limit > _NO_LIMIT:
        return None
    if math.isnan(limit) or limit < 1:
        raise ModelError(f"{_CONFIG}: model_max_length is {limit}, expected a positive number")
    return int(limit)


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Special tokens by what they are for: "cls_token" and the like, and names of a model's own."""
    own = field(config, _OWN, dict, {}, _CONFIG)
    roles = {role: config[role] for role in ROLES if config.get(role) is not None}
    tokens = {name: _content(name, token) for name, token in (roles | own).items()}
    return {name: token for name, token in tokens.items() if token is not None}


def _from_json(
    folder: Path, config: dict[str, Any], source: str, chosen: TokenizerClass
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    arguments = {k: v for k, v in config.items() if k not in ("add_bos_token", "add_eos_token")}
    if chosen is BACKEND:
        backend = _parsed(source, folder)
        stored = dict(backend.get_added_tokens_decoder())
        usual = {"pad_token": backend.padding["pad_token"]} if backend.padding else {}
        tokens = read_tokens(folder, arguments, stored.items(), usual, ())
        return _completed(backend, tokens, chosen)
    try:
        content = json.loads(source)
        model = content["model"]
        stored = {
            entry.pop("id"): tokenizers.AddedToken(**entry) for entry in content["added_tokens"]
        }
        vocab = model["vocab"]
        padding = content.get("padding")
        usual = {"pad_token": padding["pad_token"]} if padding else {}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _unreadable(folder, error) from error
    kind = model.get("type") or _kind_of(model)
    if kind != chosen.kind:
        raise ModelError(
            f"{folder}: tokenizer.json holds a {kind} model, and a {chosen.name} makes a "
            f"{chosen.kind} of it; name the tokenizer_class in {_CONFIG} that it was saved by, or "
            f"{BACKEND.name} to take the file as it is"
        )
    usual |= chosen.tokens
    tokens = read_tokens(folder, arguments, stored.items(), usual, chosen.extra)
    _check_needed(tokens, chosen)
    options = chosen.model(tokens.arguments, vocab)
    kept = {key: model[key] for key in ("vocab", "merges") if key in model}
    content |= {
        "added_tokens": [],
        "model": {"type": kind} | options | kept,
        "normalizer": _charsmap(content.get("normalizer")) if chosen.charsmap else None,
        "pre_tokenizer": None,
    }
    return _completed(_parsed(json.dumps(content), folder), tokens, chosen)


def _from_vocab(
    folder: Path, config: dict[str, Any], chosen: TokenizerClass
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """BERT WordPiece, as transformers' BertTokenizer builds it from the same files."""
    path = folder / "vocab.txt"
    try:
        vocab = models.WordPiece.read_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} cannot be read as a vocabulary: {_line(error)}") from error
    tokens = read_tokens(folder, config, (), chosen.tokens, chosen.extra)
    _check_needed(tokens, chosen)
    needed = [str_of(tokens.named[role]) for role in ("cls_token", "sep_token", "unk_token")]
    missing = [token for token in needed if token not in vocab]
    if missing:
        raise ModelError(f"{path} is not a BERT vocabulary: it lacks {', '.join(missing)}")
    options = chosen.model(tokens.arguments, vocab)
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, **options))
    return _completed(backend, tokens, chosen)


def _completed(
    backend: tokenizers.Tokenizer, tokens: NamedTokens, chosen: TokenizerClass
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer with all that its class adds to a model and a vocabulary."""
    arguments = tokens.arguments
    if (normalizer := chosen.normalizer(arguments)) is not None:
        backend.normalizer = normalizer
    if (pre_tokenizer := chosen.pre_tokenizer(arguments)) is not None:
        backend.pre_tokenizer = pre_tokenizer
    backend.encode_special_tokens = bool(
        field(arguments, "split_special_tokens", bool, False, _CONFIG)
    )
    tokens.add_to(backend)
    ids = {
        name: (str_of(token), token_id)
        for name, token in tokens.named.items()
        if (token_id := backend.token_to_id(str_of(token))) is not None
    }
    if chosen.layout is not None:
        backend.post_processor = chosen.layout(arguments, ids)
    elif backend.post_processor is None or not arguments.keys().isdisjoint(_ENDS):
        backend.post_processor = _ends(arguments, ids)
    if chosen.marks_special:
        tokens.mark_special(backend)
    if isinstance(backend.model, models.BPE):
        backend.model.dropout = None  # it is for training: scores would differ from call to call
    names = ["token_type_ids"] if chosen.token_types else []
    return backend, {"model_input_names": names} | arguments | {_OWN: tokens.named}


# Keys that decide a layout where transformers sees them beside a tokenizer.
_ENDS = {"add_bos_token": "bos_token", "add_eos_token": "eos_token"}


def _ends(arguments: dict[str, Any], ids: dict[str, tuple[str, int]]) -> Any:
    """Each text with a bos token before it and an eos token after it, as far as both are wanted."""
    bos, eos = (
        [ids[role]] if role in ids and field(arguments, name, bool, False, _CONFIG) else []
        for name, role in _ENDS.items()
    )
    first, second = (
        [*(f"{t}:{i}" for t, _ in bos), f"${text}:{i}", *(f"{t}:{i}" for t, _ in eos)]
        for i, text in enumerate("AB")
    )
    return processors.TemplateProcessing(
        single=first, pair=[*first, *second], special_tokens=[*bos, *eos]
    )


def _from_transformers(folder: Path, why: str) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """What only transformers can build.

    Args:
        folder: of the tokenizer.
        why: the beginning of the sentence that says so.
    """
    try:
        from transformers import AutoTokenizer, TokenizersBackend
    except ImportError:
        raise ModelError(
            f"{why}, and transformers, which might convert what it has, is not installed; "
            f"install it, or {_ADVICE}"
        ) from None
    try:
        wrapper = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        if type(wrapper)._encode_plus is not TokenizersBackend._encode_plus:
            raise TypeError(f"a {type(wrapper).__name__} does more than its tokenizer.json says")
        backend = tokenizers.Tokenizer.from_str(wrapper.backend_tokenizer.to_str())
    except Exception as error:  # whatever the tokenizer classes of another library raise
        raise ModelError(
            f"{why}, and transformers cannot convert what it has ({_line(error)}); {_ADVICE}"
        ) from error
    backend.encode_special_tokens = wrapper.split_special_tokens
    if isinstance(backend.model, models.BPE):
        backend.model.dropout = None
    return backend, {
        "model_input_names": wrapper.model_input_names,
        "model_max_length": wrapper.model_max_length,
        "truncation_side": wrapper.truncation_side,
        _OWN: wrapper.special_tokens_map,
    }


def _check_config(config: dict[str, Any]) -> None:
    """Refuse what would make transformers build something else out of the same files."""
    strange = next((name for name in _STRANGE if config.get(name)), None)
    others = set(field(config, "fast_tokenizer_files", list, [], _CONFIG)) - {"tokenizer.json"}
    if others:
        strange = "fast_tokenizer_files"
    if strange is not None:
        raise ModelError(
            f"{_CONFIG}: {strange} {shown(config[strange])} is not supported; {_ADVICE}"
        )


def _check_regex(folder: Path, backend: tokenizers.Tokenizer, arguments: dict[str, Any]) -> None:
    """Refuse a pre-tokenizer that transformers would replace in folders of old Mistrals."""
    if not field(arguments, "fix_mistral_regex", bool, False, _CONFIG):
        return
    model = _object(folder / "config.json")
    version = field(model, "transformers_version", str, "0", "config.json").split(".")[0]
    is_old = not version.isdigit() or int(version) < 5
    concerned = model and is_old and model.get("model_type") in _MISTRAL
    if concerned and backend.get_vocab_size() > 100_000 and backend.pre_tokenizer is not None:
        raise ModelError(f"{_CONFIG}: fix_mistral_regex is not supported; {_ADVICE}")


def _check_needed(tokens: NamedTokens, chosen: TokenizerClass) -> None:
    for role in chosen.needed:
        if role not in tokens.named:
            raise ModelError(f"{_CONFIG}: {role} is null, and a {chosen.name} needs one; name it")


def _charsmap(normalizer: Any) -> Any:
    """The character map of SentencePiece in a normalizer, null if there is none."""
    entries = [normalizer]
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        entries = normalizer["normalizers"]
    maps = (x for x in entries if isinstance(x, dict) and x.get("type") == "Precompiled")
    return next(maps, None)


def _kind_of(model: dict[str, Any]) -> str:
    """The kind of a model in an old file that does not name it."""
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "BPE" if "merges" in model else "WordPiece"


def _text(path: Path) -> str:
    check_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read as a tokenizer: {_line(error)}") from error


def _parsed(source: str, folder: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(source)
    except Exception as error:  # the library raises bare Exception
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> ModelError:
    path = folder / "tokenizer.json"
    return ModelError(f"{path} cannot be read as a tokenizer: {_line(error)}")


def _object(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _content(name: str, token: Any) -> str | None:
    """The text of a special token, which is a string or an object."""
    if isinstance(token, tokenizers.AddedToken):
        return str_of(token)
    if isinstance(token, dict):
        token = field(token, "content", str, None, f"{_CONFIG}: {name}")
    elif not isinstance(token, str):
        raise ModelError(f"{_CONFIG}: {name} is {shown(token)}, expected a token")
    return None if token is None else str(token)


def _field(config: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    return field(config, name, kind, None, _CONFIG)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
