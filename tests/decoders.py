"""Small decoders with seeded random weights, as folders that a test loads and transformers too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from packrank.request import Pack, Sequence

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 1,
    "initializer_range": 0.2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# What is peculiar to each family, at sizes that let it show.
PECULIAR: dict[str, dict[str, Any]] = {
    "Llama": {"rope_parameters": _LLAMA3, "attention_bias": True, "mlp_bias": True},
    "Mistral": {"sliding_window": 7},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    "Qwen3": {"head_dim": 16},
    "Gemma": {"head_dim": 10},
    "Gemma2": {
        "head_dim": 16,
        "sliding_window": 6,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 2.0,
    },
}


def make(family: str, suffix: str = "ForSequenceClassification", **options: Any) -> Any:
    """A model of transformers, norms and biases away from where they start."""
    config = getattr(transformers, f"{family}Config")(**(SIZES | PECULIAR[family] | options))
    model_class = getattr(transformers, f"{family}{suffix}")
    model = model_class._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def save_layerwise(folder: Path, model: Any, heads: list[torch.Tensor], **config: Any) -> Path:
    """A causal model of transformers under FlagEmbedding's names, with a head a layer."""
    tensors = {n: x for n, x in model.state_dict().items() if not n.startswith("lm_head")}
    tensors |= {f"lm_head.{i}.linear_head.weight": head for i, head in enumerate(heads)}
    folder.mkdir(exist_ok=True)
    save_file({n: x.clone().contiguous() for n, x in tensors.items()}, folder / "model.safetensors")
    raw = json.loads(model.config.to_json_string(use_diff=False)) | config
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def candidates(
    lengths: list[int], prefix: int, seed: int = 0, *, share: bool = True, first: int = 0
) -> Pack:
    """Sequences of one query: `prefix` tokens in common, then as many of their own."""
    rng = np.random.default_rng(seed)
    query = rng.integers(1, SIZES["vocab_size"], prefix)
    tokens = [
        np.concatenate([query, rng.integers(1, SIZES["vocab_size"], n)]).astype(np.int32)
        for n in lengths
    ]
    pack = Pack.of(Sequence(ids, np.zeros_like(ids)) for ids in tokens)
    if not share:
        return pack
    count = len(lengths)
    return Pack(
        pack.token_ids,
        pack.token_types,
        pack.cu_seqlens,
        queries=np.full(count, first, dtype=np.int32),
        shared=np.full(count, prefix, dtype=np.int32),
    )
