"""What late-interaction folders of each kind say in their files, and a tokenizer for them."""

import json
import string
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, processors

from packrank.late.formats import read_settings
from packrank.late.settings import Settings
from packrank.text.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
VOCAB = {
    token: i for i, token in enumerate([*SPECIAL, *string.punctuation, "a", "[Q]", "[Q] ", "[D] "])
}
HIDDEN, POSITIONS = 24, 100
PUNCTUATION = frozenset(VOCAB[symbol] for symbol in string.punctuation)
PAD = VOCAB["[PAD]"]


def tokenizer(*, mask: bool = True) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(VOCAB, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, VOCAB[token]) for token in ("[SEP]", "[CLS]")]
    backend.post_processor = processors.BertProcessing(*ends)
    config = {"model_max_length": 60, "pad_token": "[PAD]"}
    return Tokenizer(backend, config | ({"mask_token": "[MASK]"} if mask else {}))


# Of an encoder; what a test says of config.json is added.
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": len(VOCAB),
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": POSITIONS,
}


def read(folder: Path, files: dict[str, Any], **options: bool) -> Settings:
    given = files.get("config.json", {})
    files = files | {"config.json": given if isinstance(given, str) else CONFIG | given}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_settings(folder, tokenizer(**options), HIDDEN, POSITIONS)


def modules(*kinds: str) -> list[dict[str, str]]:
    return [
        {
            "path": f"{i}_{kind.rsplit('.')[-1]}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]


def pylate(dense: dict[str, object] | None = None, **config: object) -> dict[str, object]:
    sizes = {"in_features": HIDDEN, "out_features": 8}
    entries = modules("Transformer", "Dense")
    entries[1]["type"] = "pylate.models.Dense.Dense"
    return {
        "modules.json": entries,
        "1_Dense/config.json": sizes | (dense or {}),
        "config_sentence_transformers.json": {"model_type": "ColBERT"} | config,
    }


def multi_vector(
    *kinds: str,
    mask: dict[str, object] | None = None,
    transformer: dict[str, object] | None = None,
    **config: object,
) -> dict[str, object]:
    return {
        "modules.json": modules("Transformer", *(kinds or ("MultiVectorMask", "Normalize"))),
        "1_MultiVectorMask/config.json": mask or {},
        "sentence_bert_config.json": transformer or {},
        "config_sentence_transformers.json": {"model_type": "MultiVectorEncoder"} | config,
    }
