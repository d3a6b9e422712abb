"""Folders as Stanford ColBERT saves them, over every body, with seeded random weights."""

import json
import shutil
import string
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import models, normalizers, pre_tokenizers, processors

# transformers' name of a body -> what its weights are called under.
PREFIXES = {
    "Bert": "bert",
    "Roberta": "roberta",
    "XLMRoberta": "roberta",
    "Camembert": "roberta",
    "Electra": "electra",
    "DistilBert": "distilbert",
    "ModernBert": "model",
}
# Those whose tokenizer has no [unused0].
UNMARKED = ("Roberta", "XLMRoberta", "Camembert")
WORDS = ["the", "sea", "red", "fox", "##es", "##s", "saw", "it"]
LENGTHS = {"query_maxlen": 14, "doc_maxlen": 30}

# Both spellings of special tokens: to each tokenizer one is special, the other plain text.
TEXTS = [
    "the sea",
    "",
    "  the\tred fox \n",
    "foxes, seas: nobody?",
    "?!...",
    "the [PAD] sea [MASK] [CLS] [SEP] [unused0] [UNK]",
    "the <pad> sea <mask> <s> </s> <unk>",
    "[PAD]",
    "<pad><pad> fox <pad>",
    "[Q] the [D] sea [PAD] [PAD]",
    "the red fox saw it " * 6,
    "the [PAD] <pad> sea " * 9,
    "SEA \u00e9 \u6d77 \U0001f98a",
]


def save_colbert(encoder: Path, folder: Path, name: str, **metadata: object) -> None:
    """A folder over the weights of a plain encoder, `name` being transformers' name of it."""
    shutil.copytree(encoder, folder)
    weights = {
        f"{PREFIXES[name]}.{key}": value
        for key, value in load_file(encoder / "model.safetensors").items()
    }
    config = json.loads((folder / "config.json").read_text())
    size = config.get("hidden_size") or config["dim"]
    generator = torch.Generator().manual_seed(3)
    weights["linear.weight"] = torch.randn(8, size, generator=generator)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config["architectures"] = ["HF_ColBERT"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "artifact.metadata").write_text(json.dumps({"dim": 8} | LENGTHS | metadata))
    _save_tokenizer(folder, unigram=name in UNMARKED)


def _save_tokenizer(folder: Path, *, unigram: bool) -> None:
    """A WordPiece as BERT has it, or a Unigram as XLM-RoBERTa has it."""
    if unigram:
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        pieces = [*special, "\u2581", "\u2581the", "\u2581sea", "\u2581red", "fox"]
        pieces += [*string.ascii_lowercase, *string.punctuation]
        pieces.remove("!")  # unknown, so that unknown tokens are among those that are skipped
        vocab = [(piece, -float(i)) for i, piece in enumerate(pieces)]
        backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=3))
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        roles = dict(zip(("cls", "pad", "sep", "unk", "mask"), special, strict=True))
    else:
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = [*special, "[unused0]", "[unused1]", *string.punctuation, *WORDS]
        backend = tokenizers.Tokenizer(
            models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
        )
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        roles = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    backend.add_special_tokens(special)
    backend.save(str(folder / "tokenizer.json"))
    config = {f"{role}_token": token for role, token in roles.items()}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
