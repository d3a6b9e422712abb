"""How a late-interaction model lays out its texts, read once from the files of its folder.

A reader for each kind that `checkpoint.kind` tells apart; any other encoder's token vectors as they
are.
"""

import string
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from packrank.checkpoint.fields import Fields
from packrank.checkpoint.files import shown
from packrank.checkpoint.kind import PYLATE_KEYS, Kind, kind_of
from packrank.checkpoint.modules import encoder_folder, read_modules
from packrank.checkpoint.transformer_file import read_transformer_file
from packrank.errors import InputError, ModelError
from packrank.late.folder import LateFolder
from packrank.late.settings import Dense, Settings, Side
from packrank.text.tokenizer import Tokenizer

# What similarity_fn_name may be in a PyLate folder, which scores by MaxSim whatever it says.
_UNUSED_SIMILARITIES = ("maxsim", "cosine", "dot", "euclidean", "manhattan")
# Of sentence_bert_config.json: what only a MultiVectorEncoder has to say, and the one value of
# other keys that leaves token vectors as they are.
_LENGTHS = ("query_length", "document_length", "query_expansion")
_SAME_VECTORS = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
    "processing_kwargs": {},
    **dict.fromkeys(_LENGTHS),
}


def read_settings(
    folder: Path,
    tokenizer: Tokenizer,
    hidden_size: int,
    max_positions: int,
    *,
    usual_positions: int | None = None,
    query_length: int | None = None,
    document_length: int | None = None,
) -> Settings:
    """The settings of a model folder of any kind of late interaction.

    Args:
        folder: as the user names it.
        tokenizer: of `encoder_folder(folder)`.
        hidden_size: of the encoder.
        max_positions: the longest sequence that the encoder takes.
        usual_positions: the longest where neither files nor caller say; None: the same.
        query_length: tokens of a query, in place of what the folder asks for.
        document_length: tokens of a document, in place of what the folder asks for.

    Raises:
        ModelError: the folder asks for what is not supported, or contradicts itself.
        InputError: a length that the model cannot take.
    """
    modules = read_modules(folder)
    usual = max_positions if usual_positions is None else usual_positions
    late = LateFolder(
        folder, modules, tokenizer, hidden_size, max_positions, usual, query_length, document_length
    )
    late.check_lengths()
    settings = _READERS.get(kind_of(folder), _encoder)(late)
    for name, side in (("query", settings.query), ("document", settings.document)):
        late.check_room(name, side.max_length, side.marker is not None)
    return settings


def _transformer(late: LateFolder, *lengths: str) -> Fields:
    applied = ("max_seq_length", "do_lower_case", *lengths)
    return read_transformer_file(encoder_folder(late.path), applied, only=_SAME_VECTORS)


def _config(late: LateFolder) -> Fields:
    return Fields.read(late.path / "config_sentence_transformers.json")


def _stanford(late: LateFolder) -> Settings:
    """Stanford ColBERT, as its own code reads it; defaults are those of its ColBERTConfig.

    A marker that the tokenizer lacks is its unknown token there (XLM-RoBERTa has no [unused0]).
    Padding that a text spells is not scored in a document, and filled like the rest of a query.

    Source: colbert-ai's modeling/tokenization, modeling/colbert.py and infra/config/settings.py.
    """
    metadata = Fields.read(late.path / "artifact.metadata")
    if "config" in metadata.raw:
        metadata = metadata.inner("config")
    similarity = metadata.text("similarity") or "cosine"
    interaction = metadata.text("interaction") or "colbert"
    if (similarity, interaction) != ("cosine", "colbert"):
        raise ModelError(
            f"{late.path} scores by {similarity} similarity and {interaction} interaction; "
            "only cosine and colbert are supported"
        )
    pooled = metadata.count("pool_factor") or 1
    if pooled > 1:
        raise ModelError(f"{metadata.path}: pool_factor is {pooled}, only 1 is supported")
    tokenizer = late.tokenizer
    skipped = {tokenizer.pad_token_id}
    if metadata.flag("mask_punctuation", True):
        encoded = tokenizer.encode(list(string.punctuation))
        skipped |= {int(ids[0]) for ids in encoded if len(ids)}
    markers = []
    for role, default in (("query", "[unused0]"), ("doc", "[unused1]")):
        marker = metadata.text(f"{role}_token_id")
        markers.append(late.converted(default if marker is None else marker))
        if markers[-1] is None:
            raise ModelError(
                f"the tokenizer of {late.path} has no token {marker or default!r}, and none for "
                "unknown ones"
            )
    length = late.query_length or metadata.count("query_maxlen") or 32
    attend = metadata.flag("attend_to_mask_tokens", False)
    size = metadata.count("dim") or 128
    return Settings(
        kind="Stanford ColBERT",
        query=Side(late.length(length), marker=markers[0], refilled=tokenizer.pad_token_id),
        document=Side(
            late.length(late.document_length or metadata.count("doc_maxlen") or 220),
            marker=markers[1],
            skipped=frozenset(x for x in skipped if x is not None),
        ),
        expansion=late.expansion(length, tokenizer.mask_token_id, attend),
        projection=(Dense(late.path, metadata.path, late.hidden_size, size),),
    )


def _pylate(late: LateFolder) -> Settings:
    """PyLate, as its ColBERT class reads it: defaults, prefixes, prompts, modules that count.

    sentence-transformers reads the same folders with other prompts: it always puts those named
    "query" and "document" first, where PyLate takes the one of `default_prompt_name` for both;
    it strips no text, and skips no unknown words for a word of the skiplist that is no token. One
    thing is sentence-transformers' reading: a prefix that is no token would be a new, untrained
    one in PyLate; here it is its first word if that is one, or else plain text.
    """
    config = _config(late)
    late.check_modules("Dense", "Pooling", "Normalize")
    similarity = config.text("similarity_fn_name") or "maxsim"
    if similarity.lower() not in _UNUSED_SIMILARITIES:
        raise ModelError(
            f"{config.path}: similarity_fn_name is {similarity!r}, and PyLate scores by MaxSim"
        )
    length = late.query_length or config.count("query_length") or 32
    attend = config.flag("attend_to_expansion_tokens", False)
    words = config.texts("skiplist_words")
    ids = (late.converted(word) for word in (string.punctuation if words is None else words))
    expansion = None
    if config.flag("do_query_expansion", True):
        expansion = late.expansion(length, _pylate_filler(late), attend)
    transformer = _transformer(late)
    lowers = transformer.flag("do_lower_case", False)
    documents = late.document_length or config.count("document_length") or 180
    return Settings(
        kind="PyLate",
        query=_pylate_side(late, config, "query", "[Q] ", length, lowers),
        document=replace(
            _pylate_side(late, config, "document", "[D] ", documents, lowers),
            skipped=frozenset(token_id for token_id in ids if token_id is not None),
        ),
        expansion=expansion,
        projection=tuple(late.projection(m for m in late.modules[1:] if m.name == "Dense")),
    )


def _pylate_side(
    late: LateFolder, config: Fields, role: str, default_prefix: str, length: int, lowers: bool
) -> Side:
    """A prefix is one token put after the first, and the prompt comes after it."""
    prompts, chosen = _prompts(config)
    prompt = (prompts.text(chosen) if chosen is not None else None) or ""
    prefix = config.text(f"{role}_prefix")
    if prefix is None:
        prefix = default_prefix
    side = Side(late.length(length), prefix + prompt, strips=True, lowers=lowers)
    for token in (prefix, *prefix.split(maxsplit=1)[:1]):
        if token and (marker := late.tokenizer.token_id(token)) is not None:
            rest = prefix.removeprefix(token).lstrip()
            return replace(side, prompt=rest + prompt, marker=marker)
    return side


def _pylate_filler(late: LateFolder) -> int | None:
    """What PyLate fills queries with: the mask token, else the end of text, else the padding."""
    tokenizer = late.tokenizer
    if tokenizer.mask_token_id is not None:
        return tokenizer.mask_token_id
    end = tokenizer.special_tokens.get("eos_token")
    return tokenizer.pad_token_id if end is None else late.token(end)


def _sentence_transformers(late: LateFolder) -> Settings:
    """A MultiVectorEncoder of sentence-transformers 6, as it reads its own folders."""
    config = _config(late)
    for key in (*PYLATE_KEYS, "attend_to_mask_tokens", "query_expansion"):
        if config.raw.get(key) is not None:
            raise ModelError(
                f"{config.path}: {key} is PyLate's, and model_type is MultiVectorEncoder; keep one"
            )
    late.check_modules("Dense", "MultiVectorMask", "Normalize")
    dense = [*takewhile(lambda module: module.name == "Dense", late.modules[1:])]
    others = late.modules[1 + len(dense) :]
    last = {module.name: module for module in others}
    if "Dense" in last or len(last) < len(others):
        names = ", ".join(module.name for module in late.modules)
        raise ModelError(
            f"{late.path}/modules.json lists {names}; supported are Transformer, any number of "
            "Dense, then MultiVectorMask and Normalize"
        )
    similarity = config.text("similarity_fn_name") or "maxsim"
    if similarity not in ("maxsim", "meanmaxsim"):
        raise ModelError(f"{late.path} scores by {similarity!r}, expected 'maxsim' or 'meanmaxsim'")
    mask, normalizing = (
        Fields.read(last[name].folder / "config.json") if name in last else Fields({}, config.path)
        for name in ("MultiVectorMask", "Normalize")
    )
    tasks = _tasks(mask)
    skipped = late.known(mask.texts("skiplist_words") or ())
    prompts, _ = _prompts(config)
    transformer = _transformer(late, *_LENGTHS)
    usual = transformer.count("max_seq_length")
    longest, expansion = late.query_length or transformer.count("query_length"), None
    filling = transformer.inner("query_expansion")
    if filling.raw:
        if "MultiVectorMask" not in last:
            raise ModelError(f"{late.path} expands queries but has no MultiVectorMask")
        floor, strategy = filling.count("length"), filling.text("strategy")
        if strategy not in ("fixed", "min"):
            raise ModelError(f"{late.path} expands queries by {strategy!r}, not fixed or min")
        if floor is None:
            raise ModelError(f"{filling.path}: query_expansion has no length")
        if strategy == "fixed":
            floor = late.query_length or floor
        if longest is not None and longest < floor:
            why = f"query_length is {longest}, and queries are expanded to {floor} tokens"
            if late.query_length is not None:
                raise InputError(why)
            raise ModelError(f"{transformer.path}: {why}")
        token = filling.text("token")
        expansion = late.expansion(
            floor,
            late.tokenizer.mask_token_id if token is None else late.token(token),
            filling.flag("attend", False),
        )
        longest = floor if strategy == "fixed" else longest
    documents = late.document_length or transformer.count("document_length")
    ends = {normalizing.text(f"module_{end}_name") for end in ("input", "output")}
    return Settings(
        kind="sentence-transformers",
        query=Side(
            late.length(longest or usual),
            prompts.text("query") or "",
            skipped=skipped if "query" in tasks else frozenset(),
        ),
        document=Side(
            late.length(documents or usual),
            prompts.text("document") or "",
            skipped=skipped if "document" in tasks else frozenset(),
        ),
        expansion=expansion,
        projection=tuple(late.projection(dense)),
        normalize=ends - {None} == {"token_embeddings"}
        and normalizing.text("module_input_name") is not None,
        mean=similarity == "meanmaxsim",
        lower_case=transformer.flag("do_lower_case", False),
    )


def _prompts(config: Fields) -> tuple[Fields, str | None]:
    """prompts, and default_prompt_name, which is to be among them."""
    prompts, chosen = config.inner("prompts"), config.text("default_prompt_name")
    if chosen not in {None, "query", "document", *prompts.raw}:
        raise ModelError(
            f"{config.path}: default_prompt_name is {chosen!r}, which prompts does not hold"
        )
    return prompts, chosen


def _tasks(mask: Fields) -> list[str]:
    """The sides on which a MultiVectorMask drops the words of its skiplist."""
    if mask.raw.get("keep_only_token_ids"):
        raise ModelError(f"{mask.path}: only images are scored (keep_only_token_ids)")
    for key, value in mask.raw.items():
        if key not in ("keep_only_token_ids", "skiplist_words", "skiplist_tasks"):
            raise ModelError(f"{mask.path}: {key} is {shown(value)}, which is not supported")
    if isinstance(mask.raw.get("skiplist_tasks"), str):
        return [mask.raw["skiplist_tasks"]]
    tasks = mask.texts("skiplist_tasks")
    return ["document"] if tasks is None else tasks


def _encoder(late: LateFolder) -> Settings:
    """An encoder that knows nothing of late interaction: all its vectors, at length 1.

    A bi-encoder's prompts are put first as sentence-transformers' encode_query and encode_document
    put them, whatever the default_prompt_name.
    """
    transformer = _transformer(late)
    usual = transformer.count("max_seq_length")
    prompts, _ = _prompts(_config(late))
    return Settings(
        kind="encoder",
        query=Side(late.length(late.query_length or usual), prompts.text("query") or ""),
        document=Side(late.length(late.document_length or usual), prompts.text("document") or ""),
        lower_case=transformer.flag("do_lower_case", False),
    )


_READERS: dict[Kind, Callable[[LateFolder], Settings]] = {
    "Stanford ColBERT": _stanford,
    "PyLate": _pylate,
    "sentence-transformers": _sentence_transformers,
}
