"""How a late-interaction model lays out its texts, read once from the files of its folder.

Four kinds of folder, told apart by what they hold:

    Stanford ColBERT         architecture HF_ColBERT, or artifact.metadata
    PyLate                   its keys in config_sentence_transformers.json
    sentence-transformers    model_type MultiVectorEncoder in the same file
    any other encoder        its token vectors as they are
"""

import string
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from packrank.checkpoint.modules import encoder_folder, read_modules
from packrank.errors import ModelError
from packrank.late.folder import LateFolder, Record
from packrank.late.settings import Dense, Settings, Side
from packrank.text.tokenizer import Tokenizer

_PYLATE_KEYS = (
    "attend_to_expansion_tokens",
    "do_query_expansion",
    "document_length",
    "document_prefix",
    "query_length",
    "query_prefix",
    "skiplist_words",
)


def read_settings(
    folder: Path, tokenizer: Tokenizer, hidden_size: int, max_positions: int
) -> Settings:
    """The settings of a model folder of any of the four kinds.

    Args:
        folder: as the user names it.
        tokenizer: of `encoder_folder(folder)`.
        hidden_size: of the encoder.
        max_positions: the longest sequence that the encoder takes.

    Raises:
        ModelError: the folder asks for what is not supported, or contradicts itself.
    """
    late = LateFolder(folder, read_modules(folder), tokenizer, hidden_size, max_positions)
    config = Record.read(folder / "config_sentence_transformers.json")
    settings = _read(late, config)
    special = tokenizer.num_special_tokens(pair=False)
    for name, side in (("queries", settings.query), ("documents", settings.document)):
        needed = special + (side.marker is not None)
        if side.max_length <= needed:
            raise ModelError(
                f"{folder} cuts {name} to {side.max_length} tokens, but {needed} are special ones"
            )
    return settings


def _read(late: LateFolder, config: Record) -> Settings:
    model_type = config.text("model_type")
    if model_type == "MultiVectorEncoder" and late.modules:
        return _sentence_transformers(late, config)
    if model_type == "ColBERT" or any(key in config.raw for key in _PYLATE_KEYS):
        return _pylate(late, config)
    metadata = Record.read(late.path / "artifact.metadata")
    architectures = Record.read(late.path / "config.json").texts("architectures") or []
    if "HF_ColBERT" in architectures or metadata.path.is_file():
        return _stanford(late, metadata)
    return _encoder(late)


def _stanford(late: LateFolder, metadata: Record) -> Settings:
    """Stanford ColBERT, as its own code reads it; defaults are those of its ColBERTConfig."""
    similarity = metadata.text("similarity") or "cosine"
    interaction = metadata.text("interaction") or "colbert"
    if (similarity, interaction) != ("cosine", "colbert"):
        raise ModelError(
            f"{late.path} scores by {similarity} similarity and {interaction} interaction; "
            "only cosine and colbert are supported"
        )
    skipped: frozenset[int] = frozenset()
    if metadata.flag("mask_punctuation", True):
        encoded = late.tokenizer.encode(list(string.punctuation))
        skipped = frozenset(int(ids[0]) for ids in encoded if len(ids))
    length = metadata.count("query_maxlen") or 32
    attend = metadata.flag("attend_to_mask_tokens", False)
    size = metadata.count("dim") or 128
    return Settings(
        kind="Stanford ColBERT",
        query=Side(
            late.length(length),
            marker=late.token(metadata.text("query_token_id") or "[unused0]"),
        ),
        document=Side(
            late.length(metadata.count("doc_maxlen") or 220),
            marker=late.token(metadata.text("doc_token_id") or "[unused1]"),
            skipped=skipped,
        ),
        expansion=late.expansion(length, late.tokenizer.mask_token_id, attend),
        projection=(Dense(late.path, metadata.path, late.hidden_size, size),),
    )


def _pylate(late: LateFolder, config: Record) -> Settings:
    """PyLate, as its ColBERT class reads it: defaults, prefixes, prompts, modules that count.

    sentence-transformers reads the same folders with other prompts: it always puts those named
    "query" and "document" first, where PyLate takes the one of `default_prompt_name` for both.
    Two things are sentence-transformers' reading. A prefix that is no token would be a new,
    untrained one in PyLate; here it is its first word if that is one, or else plain text. Words
    of the skiplist that are no tokens skip nothing; in PyLate they skip unknown words.
    """
    length = config.count("query_length") or 32
    attend = config.flag("attend_to_expansion_tokens", False)
    words = config.texts("skiplist_words")
    expansion = None
    if config.flag("do_query_expansion", True):
        expansion = late.expansion(length, _pylate_filler(late), attend)
    return Settings(
        kind="PyLate",
        query=_pylate_side(late, config, "query", "[Q] ", length),
        document=replace(
            _pylate_side(late, config, "document", "[D] ", config.count("document_length") or 180),
            skipped=late.known(string.punctuation if words is None else words),
        ),
        expansion=expansion,
        projection=tuple(late.projection(m for m in late.modules[1:] if m.name == "Dense")),
    )


def _pylate_side(
    late: LateFolder, config: Record, role: str, default_prefix: str, length: int
) -> Side:
    """A prefix is one token put after the first, and the prompt comes after it."""
    prompts, chosen = config.inner("prompts"), config.text("default_prompt_name")
    if chosen is not None and chosen not in prompts.raw:
        raise ModelError(
            f"{config.path}: default_prompt_name is {chosen!r}, which prompts does not hold"
        )
    prompt = (prompts.text(chosen) if chosen is not None else None) or ""
    prefix = config.text(f"{role}_prefix")
    if prefix is None:
        prefix = default_prefix
    for token in (prefix, *prefix.split(maxsplit=1)[:1]):
        if token and (marker := late.tokenizer.token_id(token)) is not None:
            rest = prefix.removeprefix(token)
            return Side(late.length(length), rest.lstrip() + prompt, marker)
    return Side(late.length(length), prefix + prompt)


def _pylate_filler(late: LateFolder) -> int | None:
    """What PyLate fills queries with: the mask token, else the end of text, else the padding."""
    tokenizer = late.tokenizer
    if tokenizer.mask_token_id is not None:
        return tokenizer.mask_token_id
    config = Record.read(encoder_folder(late.path) / "tokenizer_config.json")
    spelled_out = isinstance(config.raw.get("eos_token"), dict)
    end = config.inner("eos_token").text("content") if spelled_out else config.text("eos_token")
    return tokenizer.pad_token_id if end is None else late.token(end)


def _sentence_transformers(late: LateFolder, config: Record) -> Settings:
    """A MultiVectorEncoder of sentence-transformers 6, as it reads its own folders."""
    dense = [*takewhile(lambda module: module.name == "Dense", late.modules[1:])]
    last = {module.name: module for module in late.modules[1 + len(dense) :]}
    if last.keys() - {"MultiVectorMask", "Normalize"}:
        names = ", ".join(module.name for module in late.modules)
        raise ModelError(
            f"{late.path}/modules.json lists {names}; supported are Transformer, any number of "
            "Dense, then MultiVectorMask and Normalize"
        )
    similarity = config.text("similarity_fn_name") or "maxsim"
    if similarity not in ("maxsim", "meanmaxsim"):
        raise ModelError(f"{late.path} scores by {similarity!r}, expected 'maxsim' or 'meanmaxsim'")
    mask, normalizing = (
        Record.read(last[name].folder / "config.json") if name in last else Record({}, config.path)
        for name in ("MultiVectorMask", "Normalize")
    )
    if mask.raw.get("keep_only_token_ids"):
        raise ModelError(f"{mask.path}: only images are scored (keep_only_token_ids)")
    tasks = mask.texts("skiplist_tasks") or ["document"]
    skipped = late.known(mask.texts("skiplist_words") or ())
    prompts = config.inner("prompts")
    texts = [prompts.text(role) or "" for role in ("document", "passage", "corpus")]
    transformer = Record.read(encoder_folder(late.path) / "sentence_bert_config.json")
    longest, expansion = transformer.count("query_length"), None
    filling = transformer.inner("query_expansion")
    if filling.raw:
        if "MultiVectorMask" not in last:
            raise ModelError(f"{late.path} expands queries but has no MultiVectorMask")
        floor, strategy = filling.count("length"), filling.text("strategy")
        if strategy not in ("fixed", "min"):
            raise ModelError(f"{late.path} expands queries by {strategy!r}, not fixed or min")
        if floor is None:
            raise ModelError(f"{filling.path}: query_expansion has no length")
        token = filling.text("token")
        expansion = late.expansion(
            floor,
            late.tokenizer.mask_token_id if token is None else late.token(token),
            filling.flag("attend", False),
        )
        longest = floor if strategy == "fixed" else longest and max(longest, floor)
    return Settings(
        kind="sentence-transformers",
        query=Side(
            late.length(longest),
            prompts.text("query") or "",
            skipped=skipped if "query" in tasks else frozenset(),
        ),
        document=Side(
            late.length(transformer.count("document_length")),
            next(filter(None, texts), ""),
            skipped=skipped if "document" in tasks else frozenset(),
        ),
        expansion=expansion,
        projection=tuple(late.projection(dense)),
        normalize=normalizing.text("module_input_name") == "token_embeddings",
        mean=similarity == "meanmaxsim",
    )


def _encoder(late: LateFolder) -> Settings:
    """An encoder that knows nothing of late interaction: all its vectors, at length 1."""
    transformer = Record.read(encoder_folder(late.path) / "sentence_bert_config.json")
    side = Side(late.length(transformer.count("max_seq_length")))
    return Settings(kind="encoder", query=side, document=side)
