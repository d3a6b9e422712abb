"""Which models run, by what, as a table: `packrank info --models`, and README's.

The names stand beside the registries that they are of: what is registered without a name fails a
test, and so does a README that says another thing.
"""

from collections.abc import Iterable, Iterator

from packrank.checkpoint.architectures import DECODERS, ENCODER_DECODERS, ENCODERS
from packrank.text.templates import TEMPLATES

# model_type -> what people call it, and a model that has it.
ENCODER_NAMES = {
    "bert": "BERT",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-RoBERTa (bge-reranker-v2-m3, jina-reranker-v2)",
    "camembert": "CamemBERT",
    "electra": "ELECTRA",
    "distilbert": "DistilBERT",
    "modernbert": "ModernBERT",
    "deberta-v2": "DeBERTa-v2 and v3 (mxbai-rerank-v1)",
    "gte": "gte",
    "new": "gte under its authors' names (gte-multilingual-reranker)",
}
DECODER_NAMES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "minicpm": "",  # layerwise alone
}
ENCODER_DECODER_NAMES = {"t5": "T5, Flan-T5, UL2", "mt5": "mT5"}
# Template -> models that were trained on it; "": another form of one of those.
TEMPLATE_MODELS = {
    "bge-gemma": "bge-reranker-v2-gemma",
    "bge-minicpm-layerwise": "bge-reranker-v2-minicpm-layerwise",
    "bge-gemma2-lightweight": "bge-reranker-v2.5-gemma2-lightweight (layers, compression)",
    "mxbai-v2": "mxbai-rerank-v2",
    "qwen3": "Qwen3-Reranker and its sequence-classification conversions",
    "qwen3-chat": "",
    "nemotron": "llama-nemotron-rerank",
    "contextual": "ctxl-rerank-v2 (1b, 2b)",
    "monot5": "monoT5",
}
# Method -> models that were trained for it.
METHOD_MODELS = {
    "listwise": "RankZephyr, RankVicuna",
    "first": "FIRST (first_mistral)",
    "pairwise": "duoT5",
    "pointwise": "monoT5",
}


def rows() -> Iterator[tuple[str, str]]:
    """(models, front door) each."""
    decoders = _joined(DECODER_NAMES[one] for one in DECODERS)
    seq = _joined(ENCODER_DECODER_NAMES[one] for one in ENCODER_DECODERS)
    chat = f"chat models on {decoders}"
    yield (
        f"{_joined(ENCODER_NAMES[one] for one in ENCODERS)}, with a sequence-classification head",
        "`Reranker`",
    )
    yield _joined(TEMPLATE_MODELS[one] for one in TEMPLATES), "`Reranker`"
    yield (
        f"{decoders} with a sequence-classification head; sentence-transformers folders that end "
        "in a `LogitScore`, by their chat template; any under a template of yours",
        "`Reranker`",
    )
    yield (
        "modular cross-encoders of sentence-transformers (Transformer, Pooling, Dense, LayerNorm, "
        "Dense to scores: the Ettin family) on any of those, encoder or decoder, causal or not",
        "`Reranker`",
    )
    yield (
        "LoRA and DoRA adapters (peft) of any of those; of a modular one in the folder of its "
        "Transformer",
        "`Reranker`, `LateInteraction`",
    )
    yield (
        "BERT, RoBERTa, ELECTRA, DistilBERT with heads after several layers (`exit_layers` in "
        "config.json, weights under `exits.N.`)",
        "`Reranker`",
    )
    yield "jina-reranker-v3", "`Listwise`"
    yield f"{METHOD_MODELS['listwise']}; {chat}: the order is written", "`Listwise`"
    yield f"{METHOD_MODELS['first']}; {chat}: by the first token", '`Listwise(method="first")`'
    yield f"{seq}; {chat}", "`Setwise`"
    yield f"{METHOD_MODELS['pairwise']}; {seq}; {chat}", "`Pairwise`"
    yield (
        "Stanford ColBERT, PyLate and sentence-transformers multi-vector folders on the encoders "
        "among them",
        "`LateInteraction`",
    )
    yield (
        "the same encoders without a head, bi-encoders too (after their saved prompts): the last "
        "hidden states, normalised",
        "`LateInteraction`",
    )


def markdown() -> str:
    """The table as README has it."""
    lines = ["| models | ranked by |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows())]
    return "".join(f"{line}\n" for line in lines)


def _joined(names: Iterable[str]) -> str:
    return ", ".join(filter(None, names))
