"""Which architecture a folder holds: what config.json names, else what its tensors show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from packrank.checkpoint.files import field, shown
from packrank.checkpoint.tensor_names import tensor_names
from packrank.errors import ModelError

_WHERE = "config.json"
CLASSIFIER, LANGUAGE_MODEL = "ForSequenceClassification", "ForCausalLM"
CONDITIONAL = "ForConditionalGeneration"
_BODIES = ("Model", "ForMaskedLM", "ForPreTraining", "ForTokenClassification")
COLBERT = "HF_ColBERT"

# model_type -> what names of architectures begin with.
ENCODERS = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "electra": "Electra",
    "distilbert": "DistilBert",
    "modernbert": "ModernBert",
    "deberta-v2": "DebertaV2",
    "gte": "Gte",
    "new": "New",
}
DECODERS = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "minicpm": "MiniCPM",
}
ENCODER_DECODERS = {"t5": "T5", "mt5": "MT5"}
# Models of FlagEmbedding whose code transformers has not: a head at each of several layers.
LAYERWISE = {
    "minicpm": "LayerWiseMiniCPMForCausalLM",
    "cost_wise_gemma": "CostWiseGemmaForCausalLM",
}
# Of llama-nemotron-rerank, likewise: a classifier whose attention runs both ways.
BOTH_WAYS = {"llama_bidirec": "LlamaBidirectionalForSequenceClassification"}
_OF_OTHERS = LAYERWISE | BOTH_WAYS
# jina-reranker-v3: Qwen3 under a head that reads marked tokens.
MARKED = "JinaForRanking"

# model_type -> which implementation runs it.
FAMILIES: dict[str, str] = {
    **{model_type: model_type for model_type in ENCODERS},
    **dict.fromkeys(("xlm-roberta", "camembert"), "roberta"),
    "new": "gte",
    **dict.fromkeys(ENCODER_DECODERS, "t5"),
    **dict.fromkeys((*DECODERS, *_OF_OTHERS), "causal"),
}

# Architecture -> model_type; of a HF_ColBERT, whose body may be any encoder, unless one is named.
MODEL_TYPES: dict[str, str] = {
    f"{name}{suffix}": model_type
    for names, suffixes in (
        (ENCODERS, (CLASSIFIER, *_BODIES)),
        (DECODERS, (CLASSIFIER, LANGUAGE_MODEL, "Model")),
        (ENCODER_DECODERS, (CONDITIONAL,)),
    )
    for model_type, name in names.items()
    for suffix in suffixes
} | {name: model_type for model_type, name in _OF_OTHERS.items()}
MODEL_TYPES |= {COLBERT: "bert", MARKED: "qwen3"}
MODEL_TYPES["T5WithLMHeadModel"] = "t5"  # what T5ForConditionalGeneration was called before

# Architecture, as config.json names it -> family.
ARCHITECTURES: dict[str, str] = {
    architecture: FAMILIES[model_type] for architecture, model_type in MODEL_TYPES.items()
}

# Family -> tensors that a classifier of sequences has and no other model of that family; where one
# has several names, they are divided by "|".
HEADS: dict[str, tuple[str, ...]] = {
    "bert": ("classifier.weight", "bert.pooler.dense.weight"),
    "roberta": ("classifier.dense.weight", "classifier.out_proj.weight"),
    "electra": ("classifier.dense.weight", "classifier.out_proj.weight"),
    "distilbert": ("pre_classifier.weight", "classifier.weight"),
    "modernbert": ("head.dense.weight", "classifier.weight"),
    "deberta-v2": ("classifier.weight", "pooler.dense.weight"),
    "gte": ("classifier.weight", "gte.pooler.dense.weight|new.pooler.dense.weight"),
    "causal": ("score.weight",),
    "t5": (),
}


def missing_of_head(family: str, is_there: Callable[[str], bool]) -> list[str]:
    """Names of what a classifier of this family has and is not there."""
    return [
        " or ".join(names)
        for names in (one.split("|") for one in HEADS[family])
        if not any(map(is_there, names))
    ]


def architecture_of(raw: dict[str, Any], folder: Path) -> tuple[str, str]:
    """The architecture and the model_type of a model.

    Where `architectures` names none, or several, model_type and the names of the tensors say it:
    what transformers' AutoModelForSequenceClassification loads without making a head at random is a
    classifier.

    Args:
        raw: config.json.
        folder: where it lies, and the tensors.

    Raises:
        ModelError: an architecture that is not supported, or files that contradict each other.
    """
    names = list(dict.fromkeys(map(_name, field(raw, "architectures", list, [], _WHERE))))
    model_type = field(raw, "model_type", str, None, _WHERE)
    if not names and model_type is None:
        raise ModelError(f"{_WHERE} names no architecture; {_supported()}")
    if model_type is None:
        if COLBERT in names:
            raise ModelError(
                f"{_WHERE} has no model_type, which says what the body of this {COLBERT} is; "
                f"supported are {', '.join(ENCODERS)}"
            )
        model_type = MODEL_TYPES[names[0]]
    if model_type not in FAMILIES:
        raise ModelError(f"model_type {shown(model_type)} is not supported; {_supported()}")
    family = FAMILIES[model_type]
    for name in names:
        any_encoder = name == COLBERT and model_type in ENCODERS
        if ARCHITECTURES[name] != family and not any_encoder:
            break
        if family in ("causal", "t5") and MODEL_TYPES[name] != model_type:
            break
    else:
        if len(names) != 1:
            return _by_tensors(model_type, names, folder), model_type
        return names[0], model_type
    raise ModelError(
        f"{_WHERE} contradicts itself: architectures names {shown(name)}, which is no model of "
        f"model_type {shown(model_type)}; correct the one that is wrong"
    )


def _name(value: object) -> str:
    if not isinstance(value, str) or value not in MODEL_TYPES:
        raise ModelError(
            f"architecture {value if isinstance(value, str) else shown(value)} is not supported; "
            f"{_supported()}"
        )
    return value


def _supported() -> str:
    families = ", ".join([*ENCODERS.values(), *list(DECODERS.values())[:-1]])
    return (
        f"there are {{{families}}}{CLASSIFIER}, plain encoders ({', '.join(_BODIES)}), decoders "
        f"({LANGUAGE_MODEL}), {{{', '.join(ENCODER_DECODERS.values())}}}{CONDITIONAL} and "
        f"{', '.join((*_OF_OTHERS.values(), MARKED))}"
    )


def _by_tensors(model_type: str, names: list[str], folder: Path) -> str:
    """The architecture that a folder's tensors are of."""
    found, family = tensor_names(folder), FAMILIES[model_type]
    said = f"architectures names {' and '.join(names)}" if names else "names no architecture"
    if found is None:
        raise ModelError(
            f"{_WHERE} {said}, and there is no model.safetensors beside it to tell what it is"
        )
    stem = (ENCODERS | DECODERS | ENCODER_DECODERS).get(model_type, "")
    heads = {"lm_head.linear_head.weight", "lm_head.0.linear_head.weight"} & found
    architecture = None
    if model_type in LAYERWISE:
        architecture = LAYERWISE[model_type] if heads else None
    elif family == "t5":
        decodes = any(name.startswith("decoder.block.") for name in found)
        architecture = f"{stem}{CONDITIONAL}" if decodes else None
    elif not missing_of_head(family, found.__contains__):
        architecture = BOTH_WAYS.get(model_type, f"{stem}{CLASSIFIER}")
    elif family != "causal":
        bodies = [name for name in names if not name.endswith(CLASSIFIER)]
        architecture = bodies[0] if bodies else f"{stem}Model"
    else:
        has_head = any(name.startswith(("lm_head.", "model.")) for name in found)
        architecture = f"{stem}{LANGUAGE_MODEL if has_head else 'Model'}"
    if architecture is None or (names and architecture not in names):
        raise ModelError(
            f"{_WHERE} {said}, and the tensors beside it are of another model; name the "
            "architecture that they were saved from"
        )
    return architecture
