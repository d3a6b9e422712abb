"""Which of transformers' tokenizer classes a folder asks for, and what that one makes of its files.

Most classes take a vocabulary, merges and tokens from tokenizer.json and build all else themselves,
by the arguments in tokenizer_config.json: whatever normalizer or pre-tokenizer the file holds does
not count. One, TokenizersBackend, takes the file as it is.

Source: transformers 5, AutoTokenizer and its tokenizer classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

from packrank.checkpoint import files
from packrank.errors import ModelError

_CONFIG = "tokenizer_config.json"

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class TokenizerClass:
    """How one class builds a tokenizer.

    Attributes:
        name: as transformers has it.
        kind: of the model that it makes: "BPE", "Unigram" or "WordPiece"; None: whatever is there.
        tokens: its special tokens, unless arguments name others.
        needed: which of them it cannot do without.
        extra: more special tokens, unless arguments list others.
        token_types: whether the model is told which text a token is of.
        model: arguments and vocabulary to the options of the model.
        normalizer: arguments to the normalizer; None: there is none but the file's character map.
        charsmap: whether it takes the character map of a SentencePiece model from the file.
        pre_tokenizer: arguments to the pre-tokenizer.
        layout: arguments and special tokens, each with its id, to the post-processor; None: the
            file's own.
        marks_special: all named and extra tokens are special at last, whatever the files say.
    """

    name: str
    kind: str | None = None
    tokens: Mapping[str, str | AddedToken] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    token_types: bool = False
    model: Callable[[Arguments, Any], dict[str, Any]] = lambda arguments, vocab: {}
    normalizer: Callable[[Arguments], Any] = lambda arguments: None
    charsmap: bool = False
    pre_tokenizer: Callable[[Arguments], Any] = lambda arguments: None
    layout: Callable[[Arguments, Mapping[str, tuple[str, int]]], Any] | None = None
    marks_special: bool = False


def class_of(
    config: dict[str, Any], model: dict[str, Any], is_byte_level: Callable[[], bool]
) -> TokenizerClass | None:
    """The class that AutoTokenizer takes; None if it is one that only transformers knows.

    Args:
        config: contents of tokenizer_config.json.
        model: contents of config.json.
        is_byte_level: whether tokenizer.json mentions ByteLevel.

    Raises:
        ModelError: the folder asks for code of its own, or a name is no string.
    """
    named = files.field(config, "tokenizer_class", str, None, _CONFIG)
    by_model = files.field(model, "tokenizer_class", str, None, "config.json")
    model_type = files.field(model, "model_type", str, None, "config.json")
    registered = _REGISTERED.get(model_type or "")
    asked = named or by_model
    if not _has_code(config):
        known = {model_type, files.field(model, "model_name", str, None, "config.json")}
        overruled = bool(known & _OVERRULED)
        is_llama = asked is not None and _short(asked) == "LlamaTokenizer"
        if is_llama and not overruled and is_byte_level():
            return BACKEND
        if asked is not None and registered is not None and registered != _short(asked):
            if registered == BACKEND.name:
                return BACKEND
            return _named(registered if overruled else asked)
    elif registered is None and (named is None or _short(named) not in _CLASSES):
        raise ModelError(
            f"{_CONFIG}: auto_map asks for code of the folder's own, which is never run; save the "
            "tokenizer with transformers' save_pretrained as one of its own classes"
        )
    if asked is not None:
        return _named(asked)
    return _named(registered or BACKEND.name)


def _has_code(config: dict[str, Any]) -> bool:
    own = files.field(config, "auto_map", (dict, list), {}, _CONFIG)
    return own.get("AutoTokenizer") is not None if isinstance(own, dict) else True


def _named(name: str) -> TokenizerClass | None:
    return _CLASSES.get(_short(name))


def _short(name: str) -> str:
    return name.removesuffix("Fast")


def _flag(arguments: Arguments, name: str, default: bool) -> bool:
    return bool(files.field(arguments, name, bool, default, _CONFIG))


def _plain_bpe(arguments: Arguments, vocab: Any) -> dict[str, Any]:
    return _bpe(continuing_subword_prefix="", end_of_word_suffix="")


def _bpe(**options: Any) -> dict[str, Any]:
    usual = {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return usual | options


def _wordpiece(arguments: Arguments, vocab: Any) -> dict[str, Any]:
    unknown = str(arguments["unk_token"])
    usual = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    return {"unk_token": unknown} | usual


def _bert_normalizer(arguments: Arguments) -> Any:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(arguments, "tokenize_chinese_chars", True),
        strip_accents=files.field(arguments, "strip_accents", bool, None, _CONFIG),
        lowercase=_flag(arguments, "do_lower_case", True),
    )


def _bert_layout(arguments: Arguments, ids: Mapping[str, tuple[str, int]]) -> Any:
    cls, sep = ids["cls_token"], ids["sep_token"]
    return processors.TemplateProcessing(
        single=[f"{cls[0]}:0", "$A:0", f"{sep[0]}:0"],
        pair=[f"{cls[0]}:0", "$A:0", f"{sep[0]}:0", "$B:1", f"{sep[0]}:1"],
        special_tokens=[cls, sep],
    )


def _roberta_layout(arguments: Arguments, ids: Mapping[str, tuple[str, int]]) -> Any:
    return processors.RobertaProcessing(
        ids["sep_token"],
        ids["cls_token"],
        _flag(arguments, "trim_offsets", True),
        _flag(arguments, "add_prefix_space", False),
    )


def _sentencepiece_layout(arguments: Arguments, ids: Mapping[str, tuple[str, int]]) -> Any:
    bos, eos = ids["bos_token"], ids["eos_token"]
    return processors.TemplateProcessing(
        single=[bos[0], "$A", eos[0]],
        pair=[bos[0], "$A", eos[0], eos[0], "$B", eos[0]],
        special_tokens=[bos, eos],
    )


def _t5_layout(arguments: Arguments, ids: Mapping[str, tuple[str, int]]) -> Any:
    eos = ids["eos_token"]
    return processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", eos[1])]
    )


def _metaspace(arguments: Arguments) -> Any:
    # Here null is no prefix space, while the absent key is one.
    prefix = "add_prefix_space" not in arguments or _flag(arguments, "add_prefix_space", False)
    scheme = "always" if prefix else "never"
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme),
        ]
    )


def _unknown_of(arguments: Arguments, vocab: Any) -> dict[str, Any]:
    pieces = (piece for piece, _ in vocab)
    unknown = str(arguments["unk_token"])
    index = next((index for index, piece in enumerate(pieces) if piece == unknown), 0)
    return {"unk_id": index, "byte_fallback": False}


def _deberta_unknown(arguments: Arguments, vocab: Any) -> dict[str, Any]:
    unknown = [str(arguments["unk_token"]), 0.0]
    index = next((index for index, entry in enumerate(vocab) if list(entry) == unknown), None)
    given = files.field(arguments, "unk_id", int, 1, _CONFIG)
    return {"unk_id": given if index is None else index, "byte_fallback": False}


def _deberta_normalizer(arguments: Arguments) -> Any:
    lower = [normalizers.Lowercase()] if _flag(arguments, "do_lower_case", False) else []
    blanks = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    end = normalizers.Strip(left=False, right=True)
    return normalizers.Sequence([*lower, blanks, normalizers.NFC(), end])


def _deberta_pre_tokenizer(arguments: Arguments) -> Any:
    is_split = _flag(arguments, "split_by_punct", False)
    split = [pre_tokenizers.Punctuation(behavior="isolated")] if is_split else []
    # Here null is no prefix space, while the absent key is one.
    prefix = "add_prefix_space" not in arguments or _flag(arguments, "add_prefix_space", False)
    scheme = "always" if prefix else "first"
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    return pre_tokenizers.Sequence([*split, words])


def _llama_pre_tokenizer(arguments: Arguments) -> Any:
    scheme = "always" if _flag(arguments, "legacy", False) else "first"
    if not _flag(arguments, "add_prefix_space", True):
        scheme = "never"
    return pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)


def _qwen2_pre_tokenizer(arguments: Arguments) -> Any:
    prefix = _flag(arguments, "add_prefix_space", False)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )


# What the tokens of Qwen2 never reach across; a part of the vocabulary's definition.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}

BACKEND = TokenizerClass("TokenizersBackend")
BERT = TokenizerClass(
    "BertTokenizer",
    "WordPiece",
    _BERT_TOKENS,
    needed=("unk_token", "sep_token", "cls_token"),
    token_types=True,
    model=_wordpiece,
    normalizer=_bert_normalizer,
    pre_tokenizer=lambda arguments: pre_tokenizers.BertPreTokenizer(),
    layout=_bert_layout,
)
DISTILBERT = replace(BERT, name="DistilBertTokenizer", token_types=False)
_ROBERTA = TokenizerClass(
    "RobertaTokenizer",
    "BPE",
    _ROBERTA_TOKENS,
    needed=("sep_token", "cls_token"),
    model=_plain_bpe,
    pre_tokenizer=lambda arguments: pre_tokenizers.ByteLevel(
        add_prefix_space=_flag(arguments, "add_prefix_space", False)
    ),
    layout=_roberta_layout,
)
_XLM_ROBERTA = TokenizerClass(
    "XLMRobertaTokenizer",
    "Unigram",
    _ROBERTA_TOKENS,
    needed=("bos_token", "eos_token"),
    model=lambda arguments, vocab: {"unk_id": 3, "byte_fallback": False},
    charsmap=True,
    pre_tokenizer=_metaspace,
    layout=_sentencepiece_layout,
)
_CAMEMBERT = TokenizerClass(
    "CamembertTokenizer",
    "Unigram",
    _ROBERTA_TOKENS | {"mask_token": AddedToken("<mask>", lstrip=True, special=True)},
    needed=("bos_token", "eos_token", "unk_token"),
    extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
    model=_unknown_of,
    charsmap=True,
    pre_tokenizer=_metaspace,
    layout=_sentencepiece_layout,
)
_DEBERTA_V2 = TokenizerClass(
    "DebertaV2Tokenizer",
    "Unigram",
    _BERT_TOKENS | {"bos_token": "[CLS]", "eos_token": "[SEP]"},
    needed=("unk_token", "sep_token", "cls_token"),
    token_types=True,
    model=_deberta_unknown,
    normalizer=_deberta_normalizer,
    pre_tokenizer=_deberta_pre_tokenizer,
    layout=_bert_layout,
)
_T5 = TokenizerClass(
    "T5Tokenizer",
    "Unigram",
    {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    needed=("eos_token",),
    extra=tuple(f"<extra_id_{number}>" for number in range(100)),
    model=lambda arguments, vocab: {"unk_id": 2, "byte_fallback": False},
    charsmap=True,
    pre_tokenizer=lambda arguments: _metaspace({}),
    layout=_t5_layout,
)
_LLAMA = TokenizerClass(
    "LlamaTokenizer",
    "BPE",
    {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    model=lambda arguments, vocab: _bpe(fuse_unk=True, byte_fallback=True),
    pre_tokenizer=_llama_pre_tokenizer,
)
_GEMMA = TokenizerClass(
    "GemmaTokenizer",
    "BPE",
    {f"{name}_token": f"<{name}>" for name in ("unk", "bos", "eos", "pad", "mask")},
    needed=("unk_token",),
    model=lambda arguments, vocab: _bpe(
        unk_token=str(arguments["unk_token"]), fuse_unk=True, byte_fallback=True
    ),
    normalizer=lambda arguments: normalizers.Replace(" ", "▁"),
    pre_tokenizer=lambda arguments: pre_tokenizers.Split(
        " ", behavior="merged_with_previous", invert=False
    ),
)
_QWEN2 = TokenizerClass(
    "Qwen2Tokenizer",
    "BPE",
    dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
    model=_plain_bpe,
    normalizer=lambda arguments: normalizers.NFC(),
    pre_tokenizer=_qwen2_pre_tokenizer,
    marks_special=True,
)

# By their names, those that transformers gives the same class to included.
_CLASSES = {
    **dict.fromkeys(("TokenizersBackend", "PreTrainedTokenizer", "PythonBackend"), BACKEND),
    **{
        f"{name}Tokenizer": BERT
        for name in ("Bert", "Electra", "LayoutLM", "Lxmert", "MobileBert", "SqueezeBert")
    },
    "DistilBertTokenizer": DISTILBERT,
    **dict.fromkeys(("RobertaTokenizer", "BartTokenizer", "LongformerTokenizer"), _ROBERTA),
    "XLMRobertaTokenizer": _XLM_ROBERTA,
    "CamembertTokenizer": _CAMEMBERT,
    "DebertaV2Tokenizer": _DEBERTA_V2,
    **dict.fromkeys(("T5Tokenizer", "MT5Tokenizer"), _T5),
    "LlamaTokenizer": _LLAMA,
    "GemmaTokenizer": _GEMMA,
    "Qwen2Tokenizer": _QWEN2,
}
# What a model type has where its folder names no class.
_REGISTERED = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "gte": "XLMRobertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "modernbert": "TokenizersBackend",
    "mistral": "TokenizersBackend",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    **dict.fromkeys(("t5", "mt5"), "T5Tokenizer"),
}
# Model types and names of which the folder's word is known to be wrong.
_OVERRULED = {"qwen2", "modernbert", "camembertv2-base"}
