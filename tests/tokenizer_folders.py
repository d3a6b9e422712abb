"""Small tokenizers of every family, as folders that transformers and Packrank both read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

# Blanks, accents, other scripts, special tokens within texts, what is unknown, nothing.
TEXTS = (
    "ab a b",
    "",
    " ",
    " ab",
    "ab  \n a\tb ",
    "É é e\u0301 ABC AB",
    "a漢b 漢字",
    "[SEP]ab [MASK] [CLS]",
    "a</s>b <mask>b<s>",
    "ab<|im_end|>a<|endoftext|><eos><bos>",
    "a<new>b <NEW> [N]ab[n] ab_x",
    "\uff21\uff22 \ufb01 a\u00a0b\u200db",
    "it's a 12 ab!?",
)
_LETTERS = [*"abceéABCEÉ漢字_<>[]()|/!?'", *"0123456789", "N", "n", "x", "t", "i", "s"]


def _wordpiece(lowercase: bool) -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(_LETTERS), "ab", "##b"]
    pieces += ["##a", "##漢", "new", "[unused0]"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.add_special_tokens(pieces[:5])
    return backend


def _byte_bpe(specials: list[str], *, last: bool = False, **options: Any) -> Tokenizer:
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["ab", "Ġa", "Ġab", "ĠĠ", "Ċ" * 2]
    ordered = [*pieces, *merged, *specials] if last else [*specials, *pieces, *merged]
    vocab = {piece: i for i, piece in enumerate(ordered)}
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "ab"), ("Ġ", "Ġ"), ("Ċ", "Ċ")]
    backend = Tokenizer(models.BPE(vocab, merges, **options))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(specials)
    return backend


def _roberta() -> Tokenizer:
    backend = _byte_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return backend


def _modernbert() -> Tokenizer:
    backend = _byte_bpe(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    backend.normalizer = normalizers.NFC()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return backend


def _qwen2() -> Tokenizer:
    backend = _byte_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], last=True)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}| ?[^\s\p{N}]+|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _llama3() -> Tokenizer:
    backend = _byte_bpe(["<|begin_of_text|>", "<|eot_id|>"], last=True, ignore_merges=True)
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|>:0 $A:0 <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))],
    )
    return backend


def _spaced_bpe(specials: list[str]) -> Tokenizer:
    """SentencePiece's BPE: bytes for what is unknown, a block for a space."""
    singles = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = list(dict.fromkeys(["▁", *_LETTERS]))
    vocab = {p: i for i, p in enumerate([*specials, *singles, *letters, "ab", "▁a", "▁ab", "▁▁"])}
    merges = [("a", "b"), ("▁", "a"), ("▁", "ab"), ("▁", "▁")]
    return Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )


def _llama2() -> Tokenizer:
    backend = _spaced_bpe(["<unk>", "<s>", "</s>"])
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s>:0 $A:0 <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return backend


def _gemma() -> Tokenizer:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    backend = _spaced_bpe(specials)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.add_special_tokens(specials)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos>:0 $A:0 <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    return backend


def _unigram(specials: list[str], unknown: int) -> Tokenizer:
    letters = list(dict.fromkeys(["▁", *_LETTERS]))
    pieces = [(piece, 0.0) for piece in specials]
    pieces += [(piece, -4.0) for piece in letters] + [("▁ab", -5.0), ("ab", -5.5), ("▁a", -5.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=unknown))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.add_special_tokens([piece for piece in specials if "NOTUSED" not in piece])
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    ends = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    return backend


def _xlm_roberta() -> Tokenizer:
    return _unigram(["<s>", "<pad>", "</s>", "<unk>"], 3)


def _camembert() -> Tokenizer:
    unused = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"]
    return _unigram([*unused, "<s>", "</s>"], 3)


def _t5() -> Tokenizer:
    extra = [f"<extra_id_{number}>" for number in range(99, -1, -1)]
    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    pieces += [(piece, -4.0) for piece in dict.fromkeys(["▁", *_LETTERS])]
    pieces += [("▁ab", -5.0), ("ab", -5.5), ("▁a", -5.0), *((piece, 0.0) for piece in extra)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.add_special_tokens(["<pad>", "</s>", "<unk>", *extra])
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return backend


_BERT = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
    "unk_token": "[UNK]",
}
_ROBERTA = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}

# Family -> its model_type, its tokenizer, and its tokenizer_config.json.
FAMILIES: dict[str, tuple[str, Callable[[], Tokenizer], dict[str, Any]]] = {
    "bert": (
        "bert",
        lambda: _wordpiece(True),
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **_BERT},
    ),
    "bert-cased": (
        "bert",
        lambda: _wordpiece(False),
        {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False, **_BERT},
    ),
    "distilbert": (
        "distilbert",
        lambda: _wordpiece(True),
        {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": True, **_BERT},
    ),
    "electra": (
        "electra",
        lambda: _wordpiece(True),
        {"tokenizer_class": "ElectraTokenizer", "do_lower_case": True, **_BERT},
    ),
    "roberta": ("roberta", _roberta, {"tokenizer_class": "RobertaTokenizer", **_ROBERTA}),
    "xlm-roberta": (
        "xlm-roberta",
        _xlm_roberta,
        {"tokenizer_class": "XLMRobertaTokenizer", **_ROBERTA},
    ),
    "camembert": ("camembert", _camembert, {"tokenizer_class": "CamembertTokenizer", **_ROBERTA}),
    "modernbert": (
        "modernbert",
        _modernbert,
        {"tokenizer_class": "PreTrainedTokenizerFast", **_BERT},
    ),
    "llama2": (
        "llama",
        _llama2,
        {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "legacy": False,
        },
    ),
    "llama3": (
        "llama",
        _llama3,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
        },
    ),
    "mistral": (
        "mistral",
        _llama2,
        {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"},
    ),
    "qwen2": (
        "qwen2",
        _qwen2,
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "bos_token": None,
            "unk_token": None,
        },
    ),
    "qwen3": (
        "qwen3",
        _qwen2,
        {
            "tokenizer_class": "Qwen2TokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
        },
    ),
    "gemma": (
        "gemma",
        _gemma,
        {
            "tokenizer_class": "GemmaTokenizer",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
    ),
    "t5": (
        "t5",
        _t5,
        {
            "tokenizer_class": "T5Tokenizer",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "extra_ids": 100,
            "additional_special_tokens": [f"<extra_id_{number}>" for number in range(100)],
            "model_max_length": 512,
        },
    ),
}


def write_family(folder: Path, family: str, **changes: Any) -> Path:
    """A folder of a family; changes of tokenizer_config.json, where Ellipsis takes a key out."""
    model_type, make, config = FAMILIES[family]
    make().save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": model_type})
    config = {k: v for k, v in (config | changes).items() if v is not ...}
    return write(folder, "tokenizer_config.json", config)


def write(folder: Path, name: str, content: Any) -> Path:
    """A file in a folder, which is returned; what is no string becomes JSON."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (folder / name).write_text(text, "utf-8")
    return folder
