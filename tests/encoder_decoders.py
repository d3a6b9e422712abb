"""Small encoder-decoders with seeded random weights, as folders that a test loads."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from packrank.request import Pack, Sequence

# Sizes that divide by nothing a kernel would like, and stacks that are not as deep as each other.
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 60,
    "d_kv": 12,
    "d_ff": 83,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
# As T5 1.0; as 1.1, Flan-T5 and UL2, whose head is a matrix of its own; as mT5.
PECULIAR: dict[str, dict[str, Any]] = {
    "relu": {},
    "gated": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {"tie_word_embeddings": False, "num_decoder_layers": 4},
    "few-buckets": {
        "feed_forward_proj": "gated-silu",
        "relative_attention_num_buckets": 9,
        "relative_attention_max_distance": 40,
    },
}


def make(kind: str = "relu", spread: float = 0.12, **options: Any) -> Any:
    """A model of transformers, none of whose weights is left at what it starts with."""
    chosen = SIZES | PECULIAR[kind] | options
    family = "MT5" if kind == "mt5" else "T5"
    config = getattr(transformers, f"{family}Config")(**chosen)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    if chosen.get("tie_word_embeddings") is False:
        # transformers 5 ties them always, and leaves apart what is apart in a folder.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for weight in model.parameters():
            is_norm = weight.ndim == 1
            weight.normal_(mean=float(is_norm), std=0.2 if is_norm else spread)
    return model


def save(folder: Path, kind: str = "relu", spread: float = 0.12, **options: Any) -> Any:
    """The same, saved; returns the model."""
    transformers.utils.logging.disable_progress_bar()
    model = make(kind, spread, **options)
    model.save_pretrained(folder)
    return model


def sequences(lengths: Iterable[int], seed: int = 0) -> list[Sequence]:
    """Of random ids, none of which is padding or an end."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(2, SIZES["vocab_size"], length, dtype=np.int32) for length in lengths]
    return [Sequence(ids, np.zeros_like(ids)) for ids in drawn]


def pack(lengths: Iterable[int], seed: int = 0) -> Pack:
    """`sequences`, end to end."""
    return Pack.of(sequences(lengths, seed))


def their_logits(
    model: Any, whole: Iterable[Sequence], decoder: tuple[int, ...], labels: tuple[int, ...]
) -> np.ndarray:
    """[N, labels]: what transformers says of each sequence alone, after the decoder's last token.

    In float64: unscaled products of queries and keys make much of a rounding.
    """
    rows = []
    model = model.double()
    with torch.no_grad():
        for sequence in whole:
            ids = torch.from_numpy(sequence.token_ids)[None].long()
            out = model(input_ids=ids, decoder_input_ids=torch.tensor([decoder]))
            rows.append(out.logits[0, -1, list(labels)].float().numpy())
    return np.stack(rows)
