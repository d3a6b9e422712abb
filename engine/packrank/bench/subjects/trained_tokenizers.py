"""Tokenizers for models that have none: of the kind of their family, from the shipped sample."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordPiece

from packrank.demo.model import default_model
from packrank.demo.report import Sample
from packrank.errors import ModelError

_VOCABULARY = 8000  # most pieces; the sample has fewer
_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_END = "<|endoftext|>"


def write_tokenizer(family: str, folder: Path) -> dict[str, Any]:
    """A tokenizer into a folder.

    Args:
        family: of `Shape`.
        folder: where tokenizer.json and tokenizer_config.json go.

    Returns:
        What config.json says of it: vocab_size and ids of special tokens.
    """
    tokenizer, names = _MAKERS[family]()
    tokenizer.save(str(folder / "tokenizer.json"))
    limit = {"minicpm": 1024, "qwen2": 8192, "modernbert": 8192}.get(family, 512)
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if family == "bert" else [])]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": limit,
                "model_input_names": inputs} | names  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    ids = {name: tokenizer.token_to_id(token) for name, token in names.items()}
    keys = ("pad_token", "bos_token", "eos_token", "cls_token", "sep_token")
    found = {f"{name}_id": ids[name] for name in keys if name in ids}
    return found | {"vocab_size": tokenizer.get_vocab_size()}


def _wordpiece() -> tuple[Tokenizer, dict[str, str]]:
    """all-MiniLM-L6-v2's where the package that ships it is there."""
    try:
        tokenizer = Tokenizer.from_file(str(default_model() / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except ModelError:
        tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        _train(tokenizer, trainers.WordPieceTrainer(
            vocab_size=_VOCABULARY, special_tokens=list(_BERT), show_progress=False
        ))  # fmt: skip
    sep, cls = _marks(tokenizer, "[SEP]", "[CLS]")
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    return tokenizer, {f"{one[1:-1].lower()}_token": one for one in _BERT}


def _unigram() -> tuple[Tokenizer, dict[str, str]]:
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    _train(tokenizer, trainers.UnigramTrainer(
        vocab_size=_VOCABULARY, special_tokens=list(_ROBERTA), unk_token="<unk>",
        show_progress=False,
    ))  # fmt: skip
    sep, cls = _marks(tokenizer, "</s>", "<s>")
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls, add_prefix_space=False)
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>",
             "unk": "<unk>", "mask": "<mask>"}  # fmt: skip
    return tokenizer, {f"{name}_token": token for name, token in names.items()}


def _bytes(*specials: str) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=list(specials), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))  # fmt: skip
    return tokenizer


def _byte_pairs_between() -> tuple[Tokenizer, dict[str, str]]:
    """With markers around and between texts, as ModernBERT has them."""
    tokenizer = _bytes(*_BERT)
    marks = _marks(tokenizer, "[CLS]", "[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=marks
    )
    names = {f"{one[1:-1].lower()}_token": one for one in _BERT}
    return tokenizer, names | {"bos_token": "[CLS]", "eos_token": "[SEP]"}


def _byte_pairs() -> tuple[Tokenizer, dict[str, str]]:
    """With nothing around them, as decoders have them."""
    return _bytes(_END), {"bos_token": _END, "eos_token": _END, "pad_token": _END}


def _marks(tokenizer: Tokenizer, *tokens: str) -> list[tuple[str, int]]:
    found = tokenizer.get_vocab()
    return [(token, found[token]) for token in tokens]


def _train(tokenizer: Tokenizer, trainer: Any) -> None:
    sample = Sample.load()
    tokenizer.train_from_iterator([*sample.documents, *sample.queries.values()], trainer)


_MAKERS = {
    "bert": _wordpiece,
    "xlm-roberta": _unigram,
    "modernbert": _byte_pairs_between,
    "qwen2": _byte_pairs,
    "minicpm": _byte_pairs,
}
