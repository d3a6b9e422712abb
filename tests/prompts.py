"""Prompts of decoder rerankers, written out on raw tokenizers; and small such tokenizers."""

from collections.abc import Callable

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from packrank.request import Pack
from packrank.text.tokenizer import Tokenizer

Encode = Callable[[str], list[int]]
FLAG = ("bge-gemma", "bge-minicpm-layerwise", "bge-gemma2-lightweight")
YES_OR_NO = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the "
    "query by providing a prediction of either 'Yes' or 'No'."
)
PROMPTS = {
    "bge-gemma": YES_OR_NO,
    "bge-minicpm-layerwise": YES_OR_NO,
    "bge-gemma2-lightweight": "Predict whether passage B contains an answer to query A.",
}
MXBAI_HEAD = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\n"
)
MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For "
    "each query-document pair, carefully analyze the semantic relationship between them, then "
    "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)
MXBAI_END = "<|im_end|>\n<|im_start|>assistant\n"
QWEN_HEAD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
QWEN_TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN_TASK = "Given a web search query, retrieve relevant passages that answer the query"
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = [
    "Yes",
    "No",
    "yes",
    "no",
    "0",
    "1",
    "query",
    "document",
    "passage",
    "A",
    "B",
    "panda",
    "what",
    "is",
    "a",
    "an",
    "the",
    "it",
    "was",
]


def flag_oracle(name: str, encode: Encode, bos: list[int], q: str, d: str, limit: int) -> list[int]:
    sep, prompt = encode("\n"), encode(PROMPTS[name])
    most = limit + len(sep) + len(prompt)
    first = bos + encode("A: " + q)[: limit * 3 // 4]
    second = sep + encode("B: " + d)[:limit]
    return first + second[: most - len(first)] + sep + prompt


def mxbai_oracle(encode: Encode, q: str, d: str, limit: int, task: str | None = None) -> list[int]:
    sep = encode("\n")
    piece = f"query: {q}" if task is None else f"instruction: {task}\nquery: {q}"
    first = encode(piece)[: limit * 3 // 4]
    second = (sep + encode(f"document: {d}")[:limit])[: limit - len(first)]
    return encode(MXBAI_HEAD) + first + second + sep + encode(MXBAI_TASK) + encode(MXBAI_END)


def qwen_oracle(encode: Encode, q: str, d: str, limit: int, task: str = QWEN_TASK) -> list[int]:
    head, tail = encode(QWEN_HEAD), encode(QWEN_TAIL)
    body = encode(f"<Instruct>: {task}\n<Query>: {q}\n<Document>: {d}")
    return head + body[: limit - len(head) - len(tail)] + tail


def chat_oracle(encode: Encode, q: str, d: str, limit: int, task: str = QWEN_TASK) -> list[int]:
    body = f"<Instruct>: {task}\n\n<Query>: {q}\n\n<Document>: {d}"
    tail = encode(QWEN_TAIL)
    return encode(f"{QWEN_HEAD}{body}<|im_end|>\n")[: limit - len(tail)] + tail


def contextual_oracle(encode: Encode, q: str, d: str, limit: int, task: str = "") -> list[int]:
    """One string; where it is too long the document alone is cut."""
    head = (
        "Check whether a given document contains information helpful to answer the query.\n"
        "<Document>"
    )
    asked = f" {q} {task} ??" if task else f" {q} ??"
    whole = encode(f"{head} {d}\n<Query>{asked}")
    if len(whole) <= limit:
        return whole
    end = encode("\n<Query>") + encode(asked)
    room = limit - len(encode(head)) - len(end)
    return encode(head) + encode(f" {d}\n<Query>")[:room] + end


def monot5_oracle(encode: Encode, q: str, d: str, limit: int) -> list[int]:
    """One string and its end; where it is too long the document alone is cut."""
    whole = [*encode(f"Query: {q} Document: {d} Relevant:"), 1]
    if len(whole) <= limit:
        return whole
    tail = [*encode("Relevant:"), 1]
    return encode(f"Query: {q} Document: {d}")[: limit - len(tail)] + tail


def byte_bpe(*special: str) -> tokenizers.Tokenizer:
    """As Qwen's: nothing is put before a text, spaces and newlines are in tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    corpus = [
        " ".join(WORDS),
        *WORDS,
        YES_OR_NO,
        MXBAI_TASK,
        QWEN_HEAD,
        "A: B: \n\n query: a\n",
    ] * 3
    backend.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=420,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(special),
            show_progress=False,
        ),
    )
    backend.add_tokens(["Yes", "yes", "no"])
    return backend


def metaspace() -> tokenizers.Tokenizer:
    """As MiniCPM's and Llama's: a space is put before each text, <s> before each sequence."""
    specials = [(token, 0.0) for token in ("<unk>", "<s>", "</s>")]
    letters = sorted(set("".join(WORDS) + YES_OR_NO + PROMPTS[FLAG[2]]) - {" "})
    pieces = [("▁", -3.0), ("\n", -4.0)]
    pieces += [(letter, -5.0) for letter in letters]
    pieces += [(f"▁{word}", -6.0) for word in WORDS if len(word) > 1] + [("▁A:", -6.5)]
    backend = tokenizers.Tokenizer(models.Unigram(specials + pieces, unk_id=0))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return backend


def t5_words() -> tokenizers.Tokenizer:
    """As T5's: each word by itself, a block before it, and an end after each text."""
    said = ["Query", "Document", "Relevant", "true", "false", *WORDS]
    letters = sorted(set("".join(said)) | {":"})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(letter, -5.0) for letter in letters]
    pieces += [(f"▁{word}", -6.0) for word in dict.fromkeys(said) if len(word) > 1]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return backend


def encoder(backend: tokenizers.Tokenizer) -> Encode:
    return lambda text: list(backend.encode(text, add_special_tokens=False).ids)


def gemma(**config: str) -> tuple[Tokenizer, Encode]:
    backend = byte_bpe("<pad>", "<bos>")
    return Tokenizer(backend, {"bos_token": "<bos>", "pad_token": "<pad>"} | config), encoder(
        backend
    )


def minicpm() -> tuple[Tokenizer, Encode]:
    backend = metaspace()
    return Tokenizer(backend, {"bos_token": "<s>"}), encoder(backend)


def monot5() -> tuple[Tokenizer, Encode]:
    backend = t5_words()
    config = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return Tokenizer(backend, config), encoder(backend)


def small_qwen() -> tuple[Tokenizer, Encode]:
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    return Tokenizer(backend), encoder(backend)


def joining() -> tuple[Tokenizer, Encode]:
    """It joins a colon to the space and the letter after it, so that the body cannot be split."""
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([*pieces, ":Ġ", ":Ġa"])}
    backend.model = models.BPE(vocab, [(":", "Ġ"), (":Ġ", "a")])
    return Tokenizer(backend), encoder(backend)


def rows(pack: Pack) -> list[list[int]]:
    return [sequence.token_ids.tolist() for sequence in pack]


def check_shared(pack: Pack) -> None:
    """Sequences of one number begin with the same `shared` tokens, fewer than any has."""
    assert pack.queries is not None
    assert pack.shared is not None
    assert pack.queries.dtype == pack.shared.dtype == np.int32
    assert (pack.shared >= 0).all()
    assert (pack.shared < pack.lengths).all()
    for query in np.unique(pack.queries).tolist():
        (places,) = np.nonzero(pack.queries == query)
        assert len(set(pack.shared[places].tolist())) == 1
        beginnings = {
            tuple(pack[place].token_ids[: pack.shared[place]].tolist()) for place in places.tolist()
        }
        assert len(beginnings) == 1
