"""Small decoders with seeded random weights, as folders that a test loads and transformers too."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
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
# Large enough for what kernels on a device take.
ON_DEVICE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 700,
    "initializer_range": 0.06,
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


def save_tokenizer(folder: Path, backend: tokenizers.Tokenizer, **config: Any) -> Path:
    """A tokenizer beside a model, read as it is but by Qwen2; `config` is of its own file."""
    config = {"tokenizer_class": "TokenizersBackend"} | config
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def layerwise_minicpm(
    folder: Path, backend: tokenizers.Tokenizer, *, layers: int = 4, settling: float = 1.0
) -> tuple[Any, list[torch.Tensor]]:
    """A layerwise MiniCPM with heads from layer 2 on, as a folder.

    Args:
        folder: to be made.
        backend: its tokenizer, of whose tokens one is <s>.
        layers: of the model.
        settling: every layer adds this much less than the one before; below 1 all heads are nearly
            one too, so that scores settle with depth.

    Returns:
        transformers' Llama that does the same, the scales folded into its weights; the heads.
    """
    model = make(
        "Llama",
        "ForCausalLM",
        rope_parameters=None,
        attention_bias=False,
        mlp_bias=False,
        vocab_size=backend.get_vocab_size(),
        max_position_embeddings=600,
        num_hidden_layers=layers,
    )
    head = torch.randn(1, SIZES["hidden_size"])
    heads = [head + (1 - (settling < 1) * 0.9) * torch.randn_like(head) for _ in range(layers - 1)]
    with torch.no_grad():
        for depth, layer in enumerate(model.model.layers):
            layer.self_attn.o_proj.weight *= settling**depth
            layer.mlp.down_proj.weight *= settling**depth
    save_layerwise(
        folder,
        model,
        heads,
        architectures=["LayerWiseMiniCPMForCausalLM"],
        model_type="minicpm",
        start_layer=2,
        head_type="simple",
        head_multi=True,
        scale_emb=12,
        scale_depth=1.4,
    )
    save_tokenizer(folder, backend, bos_token="<s>")
    with torch.no_grad():
        model.model.embed_tokens.weight *= 12
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 1.4 / math.sqrt(layers)
            layer.mlp.down_proj.weight *= 1.4 / math.sqrt(layers)
    return model, heads


def layerwise_logits(model: Any, heads: list[torch.Tensor], ids: list[int]) -> list[float]:
    """What the heads of `layerwise_minicpm` say of a sequence, one a layer from the second on."""
    with torch.no_grad():
        out = model.model(torch.tensor([ids]), output_hidden_states=True)
        # The last of hidden_states has been normed already.
        states = [model.model.norm(x) for x in out.hidden_states[2:-1]] + [out.last_hidden_state]
        return [float(x[0, -1] @ head[0]) for x, head in zip(states, heads, strict=True)]


def lightweight(
    folder: Path, backend: tokenizers.Tokenizer, layers: int = 4
) -> tuple[Any, list[torch.Tensor]]:
    """A bge-reranker-v2.5-gemma2-lightweight with heads from layer 1 on: its Gemma2, its heads."""
    size = backend.get_vocab_size()
    model = make("Gemma2", "ForCausalLM", vocab_size=size, num_hidden_layers=layers)
    # So small that the cap on logits leaves them apart.
    heads = [0.1 * torch.randn(1, SIZES["hidden_size"]) for _ in range(layers)]
    save_layerwise(
        folder,
        model,
        heads,
        architectures=["CostWiseGemmaForCausalLM"],
        model_type="cost_wise_gemma",
        max_position_embeddings=300,
        start_layer=1,
        layer_sep=1,
        layer_wise=True,
    )
    save_tokenizer(folder, backend, bos_token="<bos>", pad_token="<pad>")
    return model, heads


def compressed_logits(
    model: Any,
    heads: list[torch.Tensor],
    ids: list[int],
    ends: tuple[int, int],
    ratio: int,
    layers: tuple[int, ...],
    stops: tuple[int, ...],
) -> list[float]:
    """A sequence through Gemma2's layers, its document's states averaged on the way.

    As FlagEmbedding has it: the first of the heads for the first of the stops.

    Args:
        model: transformers' Gemma2ForCausalLM.
        heads: [1, hidden] each.
        ids: of the sequence.
        ends: where its document begins, and how many tokens come after it.
        ratio: of document states that become one.
        layers: before which this happens.
        stops: after how many layers a head is asked.
    """
    (begin, tail), found = ends, []
    x = model.model.embed_tokens(torch.tensor([ids]))
    for index in range(max(stops) + 1):
        if index in stops:
            state = model.model.norm(x)[0, -1]
            cap = model.config.final_logit_softcapping
            found.append(float(cap * torch.tanh(state @ heads[len(found)][0] / cap)))
        if index == max(stops):
            break
        if index in layers and index and ratio > 1:
            document = x[0, begin : x.shape[1] - tail]
            means = [document[i : i + ratio].mean(0) for i in range(0, len(document), ratio)]
            x = torch.cat([x[0, :begin], *(m[None] for m in means), x[0, x.shape[1] - tail :]])
            x = x[None]
        places = torch.arange(x.shape[1])
        behind = places[:, None] - places[None, :]
        hidden = behind < 0
        if index % 2 == 0:
            hidden |= behind >= model.config.sliding_window
        mask = torch.where(hidden, -torch.inf, 0.0)[None, None]
        turns = model.model.rotary_emb(x, places[None])
        x = model.model.layers[index](x, position_embeddings=turns, attention_mask=mask)
    return found
