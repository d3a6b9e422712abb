"""Small rerankers with a decoder, each with the logits that an oracle gives a pair."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import encoder_decoders
import numpy as np
import tokenizers
import torch
import transformers
from decoders import (
    compressed_logits,
    layerwise_logits,
    layerwise_minicpm,
    lightweight,
    make,
    save_tokenizer,
)
from prompts import (
    FLAG,
    PROMPTS,
    QWEN_TASK,
    byte_bpe,
    contextual_oracle,
    encoder,
    flag_oracle,
    metaspace,
    monot5_oracle,
    mxbai_oracle,
    qwen_oracle,
    t5_words,
)
from sentence_transformers import CrossEncoder

from packrank import Reranker
from packrank.request import Sequence

Want = Callable[[str, str], Any]

# Documents of one query, of several, empty ones; the last are cut wherever there is a limit.
LONG = "the passage was what it is " * 9
PAIRS = [
    ("what is a panda", "a panda"),
    ("what is a panda", "it was an passage"),
    ("what is a panda", ""),
    ("", "the document"),
    ("is it", "Yes no query 0 1"),
    ("what is a panda", LONG),
    (LONG, "a panda"),
    (LONG, LONG),
]
CHAT = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
"""


@dataclass
class Case:
    """A folder, the options that a test opens it with, and the logit of a pair by the oracle."""

    folder: Path
    want: Want
    options: dict[str, Any] = field(default_factory=dict)
    activate: Callable[[np.ndarray], np.ndarray] = lambda logits: logits
    pairs: list[tuple[str, str]] = field(default_factory=lambda: PAIRS)

    def open(self, **options: Any) -> Reranker:
        return Reranker(self.folder, **self.options | options)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def saved(folder: Path, model: Any, backend: tokenizers.Tokenizer, **config: Any) -> Path:
    model.save_pretrained(folder)
    return save_tokenizer(folder, backend, **config)


def sized(family: str, suffix: str, backend: tokenizers.Tokenizer, **options: Any) -> Any:
    size = backend.get_vocab_size()
    return make(family, suffix, vocab_size=size, max_position_embeddings=700, **options)


def last(model: Any, ids: list[int]) -> torch.Tensor:
    """What transformers says after the last of these tokens."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return logits if logits.ndim == 1 else logits[-1]


def gemma(root: Path) -> Case:
    backend = byte_bpe("<pad>", "<bos>")
    model, encode = sized("Gemma", "ForCausalLM", backend), encoder(backend)
    folder = saved(
        root / "bge-reranker-v2-gemma", model, backend, bos_token="<bos>", pad_token="<pad>"
    )
    yes = backend.token_to_id("Yes")

    def want(query: str, document: str) -> Any:
        return last(model, flag_oracle(FLAG[0], encode, [1], query, document, 40))[yes]

    return Case(folder, want, {"max_length": 40})


def minicpm(root: Path) -> Case:
    backend = metaspace()
    model, heads = layerwise_minicpm(root / "minicpm", backend, layers=5)

    def want(query: str, document: str) -> Any:
        ids = flag_oracle(FLAG[1], encoder(backend), [1], query, document, 40)
        return layerwise_logits(model, heads, ids)[-1]

    return Case(root / "minicpm", want, {"max_length": 40})


def gemma2(root: Path) -> Case:
    """Compressed twice, the second time after the first exit layer."""
    backend = byte_bpe("<pad>", "<bos>")
    encode = encoder(backend)
    model, heads = lightweight(root / "lightweight", backend)
    tail = len(encode("\n") + encode(PROMPTS[FLAG[2]]))

    def want(query: str, document: str) -> Any:
        ids = flag_oracle(FLAG[2], encode, [1], query, document, 40)
        begin = min(len(encode("A: " + query)), 30) + 1 + len(encode("\n"))
        with torch.no_grad():
            return compressed_logits(model, heads, ids, (begin, tail), 2, (1, 3), (4,))[0]

    options = {"max_length": 40, "compress_ratio": 2, "compress_layers": (1, 3)}
    return Case(root / "lightweight", want, options)


def mxbai(root: Path, task: str | None = None) -> Case:
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    model, encode = sized("Qwen2", "ForCausalLM", backend), encoder(backend)
    folder = saved(root / "mxbai-rerank-base-v2", model, backend)
    one, zero = (backend.token_to_id(token) for token in "10")

    def want(query: str, document: str) -> Any:
        logits = last(model, mxbai_oracle(encode, query, document, 40, task))
        return logits[one] - logits[zero]

    return Case(folder, want, {"max_length": 40, "instruction": task})


def mxbai_instructed(root: Path) -> Case:
    case = mxbai(root, "find a panda")
    return Case(
        case.folder,
        case.want,
        case.options | {"activation": "normalized"},
        lambda logits: sigmoid(logits - 6.0),
    )


def qwen3(root: Path, task: str = QWEN_TASK) -> Case:
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    model, encode = (
        sized("Qwen3", "ForCausalLM", backend, tie_word_embeddings=True),
        encoder(backend),
    )
    folder = saved(root / "Qwen3-Reranker-0.06B", model, backend)
    yes, no = (backend.token_to_id(token) for token in ("yes", "no"))
    limit = len(qwen_oracle(encode, "", "", 9999, task)) + 60

    def want(query: str, document: str) -> Any:
        logits = last(model, qwen_oracle(encode, query, document, limit, task))
        return logits[yes] - logits[no]

    return Case(folder, want, {"max_length": limit}, sigmoid, PAIRS[:6])


def qwen3_instructed(root: Path) -> Case:
    case = qwen3(root, "find a panda")
    case.options["instruction"] = "find a panda"
    return case


def qwen3_classifier(root: Path) -> Case:
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    model, encode = sized("Qwen3", "ForSequenceClassification", backend), encoder(backend)
    folder = saved(root / "Qwen3-Reranker-0.06B-seq-cls", model, backend)
    limit = len(qwen_oracle(encode, "", "", 9999)) + 60

    def want(query: str, document: str) -> Any:
        return last(model, qwen_oracle(encode, query, document, limit))[0]

    return Case(folder, want, {"max_length": limit}, sigmoid, PAIRS[:6])


def nemotron(root: Path) -> Case:
    """A bidirectional Llama, the mean of all tokens, a temperature."""
    backend = byte_bpe("<|begin_of_text|>", "<|eot_id|>")
    model = sized("Llama", "ForSequenceClassification", backend, is_causal=False)
    folder = saved(root / "nemotron", model, backend, bos_token="<|begin_of_text|>")
    raw = json.loads((folder / "config.json").read_text())
    raw |= {
        "model_type": "llama_bidirec",
        "architectures": ["LlamaBidirectionalForSequenceClassification"],
        "auto_map": {"AutoModelForSequenceClassification": "llama_bidirectional_model.Llama"},
        "pooling": "avg",
        "temperature": 0.5,
    }
    (folder / "config.json").write_text(json.dumps(raw))
    encode, bos = encoder(backend), backend.token_to_id("<|begin_of_text|>")

    def want(query: str, document: str) -> Any:
        ids = [bos, *encode(f"question:{query} \n \n passage:{document}")][:60]
        with torch.no_grad():
            states = model.model(torch.tensor([ids])).last_hidden_state[0]
            return model.score(states.mean(0))[0] / 0.5

    return Case(folder, want, {"max_length": 60}, pairs=PAIRS[:6])


def contextual(root: Path, task: str = "") -> Case:
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    model, encode = sized("Qwen3", "ForCausalLM", backend), encoder(backend)
    folder = saved(root / "ctxl-rerank-v2-instruct-multilingual-1b", model, backend)
    yes = backend.token_to_id("!")
    limit = len(contextual_oracle(encode, "", "", 9999, task)) + 60

    def want(query: str, document: str) -> Any:
        return last(model, contextual_oracle(encode, query, document, limit, task))[yes]

    options = {"max_length": limit} | ({"instruction": task} if task else {})
    return Case(folder, want, options, pairs=PAIRS[:6])


def monot5(root: Path) -> Case:
    backend = t5_words()
    encode, size = encoder(backend), backend.get_vocab_size()
    folder = root / "monot5-base-msmarco"
    model = encoder_decoders.save(folder, "relu", 0.2, vocab_size=size)
    roles = {f"{name}_token": f"<{name}>" for name in ("pad", "unk")} | {"eos_token": "</s>"}
    save_tokenizer(folder, backend, tokenizer_class="T5Tokenizer", extra_ids=0, **roles)
    true, false = (backend.token_to_id(f"▁{word}") for word in ("true", "false"))

    def want(query: str, document: str) -> Any:
        ids = np.array(monot5_oracle(encode, query, document, 40), dtype=np.int32)
        read = Sequence(ids, np.zeros_like(ids))
        [[yes, no]] = encoder_decoders.their_logits(model, [read], (0,), (true, false))
        return yes - no

    return Case(folder, want, {"max_length": 40}, sigmoid, PAIRS[:6])


def plain(root: Path, family: str, pad_token_id: int | None = None) -> Case:
    """The pair as the tokenizers library lays it out and cuts it.

    transformers reads the last token that is not the padding token.
    """
    backend = metaspace()
    model = sized(family, "ForSequenceClassification", backend, pad_token_id=pad_token_id)
    folder = saved(root / family, model, backend, bos_token="<s>")
    cutting = tokenizers.Tokenizer.from_str(backend.to_str())
    cutting.enable_truncation(40)

    def want(query: str, document: str) -> Any:
        return last(model, cutting.encode(query, document).ids)[0]

    # Characters that the tokenizer has not are its token 0.
    unknown = [("is it", "a panda # #"), ("is it", "# panda"), ("is it", "##"), ("##", "##")]
    return Case(folder, want, {"max_length": 40}, sigmoid, [*PAIRS, *unknown])


def logit_score(root: Path) -> Case:
    """Saved and scored by sentence-transformers."""
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    wrapped.chat_template = CHAT
    base = root / "base"
    wrapped.save_pretrained(base)
    sized("Qwen2", "ForCausalLM", backend).save_pretrained(base)
    theirs = CrossEncoder(str(base), device="cpu", max_length=90)
    folder = root / "logit-score"
    theirs.save_pretrained(str(folder))
    identity = torch.nn.Identity()

    def want(query: str, document: str) -> Any:
        return theirs.predict([(query, document)], activation_fn=identity)[0]

    # A query that leaves no room for a document fails by name here.
    return Case(folder, want, activate=sigmoid, pairs=PAIRS[:6])


BUILD: dict[str, Callable[[Path], Case]] = {
    "bge-gemma": gemma,
    "bge-minicpm-layerwise": minicpm,
    "bge-gemma2-lightweight": gemma2,
    "mxbai-v2": mxbai,
    "mxbai-v2-instructed": mxbai_instructed,
    "qwen3": qwen3,
    "qwen3-instructed": qwen3_instructed,
    "qwen3-classifier": qwen3_classifier,
    "nemotron": nemotron,
    "contextual": contextual,
    "contextual-instructed": lambda root: contextual(root, "find a panda"),
    "monot5": monot5,
    "llama": lambda root: plain(root, "Llama"),
    "mistral": lambda root: plain(root, "Mistral", pad_token_id=0),
    "logit-score": logit_score,
}
