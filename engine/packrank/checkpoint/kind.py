"""What a folder is: decided once, from all that its files state, and asked by every door."""

from pathlib import Path
from typing import Any, Literal

from packrank.checkpoint.adapter import base_folder
from packrank.checkpoint.architectures import MARKED
from packrank.checkpoint.config import ModelConfig, load_config
from packrank.checkpoint.files import field, read_object, shown
from packrank.checkpoint.modules import Module, encoder_folder, read_modules
from packrank.checkpoint.weights import Weights
from packrank.errors import ModelError

Kind = Literal[
    "cross-encoder",
    "modular cross-encoder",
    "decoder",
    "encoder-decoder",
    "listwise",
    "Stanford ColBERT",
    "PyLate",
    "sentence-transformers",
    "bi-encoder",
    "encoder",
    "sparse encoder",
    "store",
    "token store",
    "index",
]
RERANKERS: tuple[Kind, ...] = (
    *("cross-encoder", "modular cross-encoder", "decoder", "encoder-decoder"),
)
LATE: tuple[Kind, ...] = (
    "Stanford ColBERT",
    "PyLate",
    "sentence-transformers",
    "bi-encoder",
    "encoder",
)

_SAVED = "config_sentence_transformers.json"
# Keys of that file which PyLate alone writes.
PYLATE_KEYS = (
    "attend_to_expansion_tokens",
    "do_query_expansion",
    "document_length",
    "document_prefix",
    "query_length",
    "query_prefix",
    "skiplist_words",
)
# What stores and indexes are known by: the manifest of the one; the centroids of ColBERT's and of
# fast-plaid's, the latter in a folder of its own where PyLate made it.
STORE_FILE = "store.json"
TOKEN_IDS = "token ids"  # the format that it names in a store of those
COLBERT_FILE = "centroids.pt"
FAST_PLAID_FILE = "centroids.npy"
PYLATE_FOLDER = "fast_plaid_index"
# Its model_type, where it has one.
_MODEL_TYPES = (
    "CrossEncoder",
    "ColBERT",
    "MultiVectorEncoder",
    "SentenceTransformer",
    "SparseEncoder",
)
_SPARSE = (
    "MLMTransformer",
    "SpladePooling",
    "SparseAutoEncoder",
    "CSRSparsity",  # an older name of it
    "SparseStaticEmbedding",
)
_POOLS = ("Pooling", "WeightedLayerPooling", "LSTM", "CNN")

_BY_VECTORS = "LateInteraction scores by its token vectors (packrank rank, score, encode)"
_BY_RERANKER = "Reranker scores with it (packrank rank, score)"
# What a kind is, in words, and what it is good for here.
_MEANINGS: dict[Kind, tuple[str, str]] = {
    "cross-encoder": ("a cross-encoder", _BY_RERANKER),
    "modular cross-encoder": ("a modular cross-encoder", _BY_RERANKER),
    "decoder": ("a decoder", _BY_RERANKER),
    "encoder-decoder": (
        "an encoder-decoder",
        "Pairwise and Setwise rank with it, and Reranker scores with monoT5 (packrank rank, score)",
    ),
    "listwise": (
        "a listwise reranker",
        "Listwise ranks with it (packrank rank); it has no score of a pair alone",
    ),
    "Stanford ColBERT": ("a Stanford ColBERT", _BY_VECTORS),
    "PyLate": ("a ColBERT of PyLate", _BY_VECTORS),
    "sentence-transformers": ("a multi-vector encoder of sentence-transformers", _BY_VECTORS),
    "bi-encoder": ("a bi-encoder, which has no scoring head", _BY_VECTORS),
    "encoder": ("an encoder without a scoring head", _BY_VECTORS),
    "sparse encoder": (
        "a sparse encoder",
        "it is not supported; sentence-transformers' SparseEncoder runs it",
    ),
    "store": (
        "a store of token embeddings",
        "name the model that encoded it, and give it as store= (--store)",
    ),
    "token store": (
        "a store of token ids",
        "name the model that it was made for, whose Reranker scores them",
    ),
    "index": (
        "an index of ColBERT, PLAID or fast-plaid",
        "name the model that encoded it, and give it as store= (--store)",
    ),
}


def kind_of(folder: Path) -> Kind:
    """What a folder holds.

    In this order: files of a store or an index; sentence-transformers' and PyLate's files; those of
    Stanford's ColBERT; the architecture in config.json.

    Args:
        folder: as the user names it.

    Raises:
        ModelError: what it states is unknown or contradicts itself, or config.json cannot be used.
    """
    if not (folder / "config.json").exists() and not (folder / "modules.json").exists():
        if (folder / STORE_FILE).is_file():
            return _of_store(folder / STORE_FILE)
        inside = f"{PYLATE_FOLDER}/{FAST_PLAID_FILE}"
        if any((folder / name).is_file() for name in (COLBERT_FILE, FAST_PLAID_FILE, inside)):
            return "index"
    saved = read_object(folder / _SAVED) if (folder / _SAVED).is_file() else {}
    modules = read_modules(folder)
    found = _of_modules(folder, saved, modules)
    if found == "bi-encoder" and load_config(encoder_folder(folder)).is_classifier:
        raise _contradiction(folder, "a sequence classifier", f"the module {modules[1].name}")
    if found is not None:
        return found
    _check_base(folder)
    config = load_config(encoder_folder(folder))
    if config.architecture == "HF_ColBERT" or _is_projected(folder, modules):
        if field(saved, "model_type", str, None, folder / _SAVED) == "CrossEncoder":
            raise _contradiction(folder, "model_type CrossEncoder", "a ColBERT of Stanford's")
        if config.is_classifier:
            raise _contradiction(folder, config.architecture, "a ColBERT of Stanford's")
        return "Stanford ColBERT"
    if field(saved, "model_type", str, None, folder / _SAVED) == "CrossEncoder" and modules:
        _check_scores(folder, config)
    if config.architecture == MARKED:
        return "listwise"
    if config.decoder is not None:
        return "decoder"
    if config.t5 is not None:
        return "encoder-decoder"
    return "cross-encoder" if config.is_classifier else "encoder"


def _of_store(manifest: Path) -> Kind:
    """What a store is of, by its manifest; who opens it says what is wrong with that."""
    try:
        return "token store" if read_object(manifest).get("format") == TOKEN_IDS else "store"
    except ModelError:
        return "store"


def _is_projected(folder: Path, modules: list[Module]) -> bool:
    """Whether a folder says, or its weights without modules do, that it ends in ColBERT's layer."""
    if (folder / "artifact.metadata").is_file():
        return True
    there = any(folder.glob("model.safetensors*"))
    return there and not modules and "linear.weight" in Weights.open(folder)


def expect(folder: Path, wanted: tuple[Kind, ...]) -> Kind:
    """What a folder holds, which must be of one of these kinds.

    Args:
        folder: as the user names it.
        wanted: the kinds that can be used, `RERANKERS` or `LATE`.

    Raises:
        ModelError: it is of another, which the message names, with what would serve; or as
            `kind_of`.
    """
    kind = kind_of(folder)
    what, serves = _MEANINGS[kind]
    if kind in LATE and load_config(encoder_folder(folder)).reads_prompts:
        raise ModelError(
            f"{folder} holds {what}, whose body is a decoder; token vectors of decoders are not "
            "supported"
        )
    if kind not in wanted:
        raise ModelError(f"{folder} holds {what}; {serves}")
    return kind


def in_words(folder: Path) -> str | None:
    """What a folder holds, for a message; None where that cannot be told."""
    try:
        return _MEANINGS[kind_of(folder)][0]
    except ModelError:
        return None


def _of_modules(folder: Path, saved: dict[str, Any], modules: list[Module]) -> Kind | None:
    """What modules.json and the file beside it say; None where the architecture is to say it."""
    said = field(saved, "model_type", str, None, folder / _SAVED)
    if said is not None and said not in _MODEL_TYPES:
        known = ", ".join(_MODEL_TYPES)
        raise ModelError(f"{folder}/{_SAVED}: model_type is {shown(said)}, expected one of {known}")
    for module in modules:
        if not module.type.startswith(("sentence_transformers.", "pylate.")):
            raise ModelError(
                f"{folder}/modules.json lists {module.type or 'a module without a type'}, and only "
                "modules of sentence-transformers and PyLate are supported"
            )
    names = [module.name for module in modules]
    pylate = [key for key in PYLATE_KEYS if key in saved]
    pylate += [module.type for module in modules if module.type.startswith("pylate.")]
    sparse = [name for name in names if name in _SPARSE]
    if said in ("CrossEncoder", "SparseEncoder") and pylate:
        raise _contradiction(folder, f"model_type {said}", f"{pylate[0]} of PyLate")
    if sparse and said not in (None, "SparseEncoder", "SentenceTransformer"):
        raise _contradiction(folder, f"model_type {said}", f"the module {sparse[0]}")
    if sparse or said == "SparseEncoder":
        return "sparse encoder"
    if said == "ColBERT" or (pylate and said != "MultiVectorEncoder"):
        return "PyLate"
    if not modules:
        # Without modules.json sentence-transformers does not read what is saved beside it.
        return None
    if names[0] != "Transformer":
        raise ModelError(
            f"{folder}/modules.json begins with {names[0]}, which is not supported; there is "
            "Transformer"
        )
    if said == "MultiVectorEncoder":
        return "sentence-transformers"
    if "LogitScore" in names and said != "CrossEncoder":
        raise _contradiction(folder, f"model_type {said or '(none)'}", "the module LogitScore")
    if said == "CrossEncoder":
        plain = names[1:] in ([], ["LogitScore"])
        return None if plain else "modular cross-encoder"
    if any(name in _POOLS for name in names):
        return "bi-encoder"
    if names[1:]:
        raise ModelError(
            f"{folder}/modules.json lists {', '.join(names)}, and {_SAVED} does not say of which "
            "kind the model is; save it anew with sentence-transformers"
        )
    return None


def _check_base(folder: Path) -> None:
    """Raise ModelError where an adapter leaves behind what comes after its base's layers."""
    inner = encoder_folder(folder)
    base = base_folder(inner)
    if base == inner:
        return
    kind = kind_of(base)
    if kind not in ("cross-encoder", "decoder", "bi-encoder", "encoder"):
        raise ModelError(
            f"{folder} is an adapter over {_MEANINGS[kind][0]} and says nothing of the parts that "
            f"come after its layers; put it into {base}, or merge it into that"
        )


def _check_scores(folder: Path, config: ModelConfig) -> None:
    if config.decoder is None and not config.is_classifier:
        raise _contradiction(
            folder, "model_type CrossEncoder", f"{config.architecture}, which has no scoring head"
        )


def _contradiction(folder: Path, said: str, found: str) -> ModelError:
    return ModelError(
        f"{folder} contradicts itself: its files name both {said} and {found}; remove what is not "
        "this model's"
    )
