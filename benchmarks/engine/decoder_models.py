"""Seeded checkpoints for benchmarks of decoders, and what they are asked."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from quality import Collection

# huggingface.co/Qwen/Qwen2.5-0.5B, config.json.
QWEN_LAYERS, QWEN_HIDDEN, QWEN_INNER, QWEN_HEADS, QWEN_KEY_HEADS = 24, 896, 4864, 14, 2
VOCABULARY = 151936
PAD = 151643

# The layers, exits and scales of bge-reranker-v2-minicpm-layerwise, a smaller size.
LAYERS, FIRST_EXIT, HIDDEN, HEAD_SIZE = 40, 8, 128, 64
AMPLITUDE = 30.0  # of what layers add, so that little is left of the embedding that all share

# How far the scores of a query's candidates after c layers are from those after all: the standard
# deviation of the noise, in that of the scores.
#
# "as published": nDCG@10 of bge-reranker-v2-minicpm-layerwise over BEIR is 56.4, 59.9 and 59.9
# after 20, 28 and 40 layers (FlagEmbedding, research/llm_reranker). Simulated, with 1 to 10
# relevant among 100 candidates of normal scores and as much noise between relevance and the final
# score as leaves it 59.9, these are noises of 0.27 to 0.31 and 0.02 to 0.06. Other layers are on
# the straight line of the logarithm through 0.27 and 0.05, up to 1.
# "early": the same, but layers 8 to 19 are as near as the 20th.
SETTLING: dict[str, Callable[[int], float]] = {
    "as published": lambda layer: min(1.0, _line(layer)),
    "early": lambda layer: min(0.27, _line(layer)),
}


def _line(layer: int) -> float:
    return float(0.27 * (0.05 / 0.27) ** ((layer - 20) / 8))


def qwen(folder: Path, head: str = "SequenceClassification") -> Path:
    """Qwen2.5-0.5B's sizes with one label, or another head, bfloat16; no tokenizer."""
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=QWEN_HIDDEN,
        intermediate_size=QWEN_INNER,
        num_hidden_layers=QWEN_LAYERS,
        num_attention_heads=QWEN_HEADS,
        num_key_value_heads=QWEN_KEY_HEADS,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        num_labels=1,
        pad_token_id=PAD,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model_class = getattr(transformers, f"Qwen2For{head}")
    model = model_class._from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, vector in model.named_parameters():
            if vector.ndim == 1:  # all ones or all zeros: which is which would not show
                vector.normal_(mean=float(name.endswith("norm.weight")), std=0.1)
    model.save_pretrained(folder)
    return folder


def qwen_flops(num_tokens: int, num_sequences: int) -> float:
    """Operations of the products of the layers; of the last, only what is needed."""
    size = QWEN_HIDDEN // QWEN_HEADS
    keys = QWEN_HIDDEN * 2 * QWEN_KEY_HEADS * size
    rest = QWEN_HIDDEN * (2 * QWEN_HIDDEN + 3 * QWEN_INNER)
    full = (QWEN_LAYERS - 1) * (keys + rest)
    return 2.0 * (num_tokens * (full + keys) + num_sequences * rest)


def layerwise(folder: Path, settling: str) -> Path:
    """A MiniCPM of BGE's kind, a head after layers 8 to 40, whose scores settle with depth.

    A score is a sum of what layers have added, so that of independent ones the variance after c
    layers is 1 / (1 + noise_c^2) of the final one; layers add random products in that measure.
    """
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    inner = 5 * HIDDEN // 2

    def random(rows: int, columns: int, gain: float) -> torch.Tensor:
        drawn = torch.randn(rows, columns, generator=generator)
        return (drawn * gain / math.sqrt(columns)).bfloat16()

    first = 1 / (1 + SETTLING[settling](FIRST_EXIT) ** 2)
    variances = [first * layer / FIRST_EXIT for layer in range(FIRST_EXIT)]
    variances += [1 / (1 + SETTLING[settling](layer) ** 2) for layer in range(FIRST_EXIT, LAYERS)]
    added = np.sqrt(np.diff([*variances, 1.0])).tolist()
    ones = torch.ones(HIDDEN, dtype=torch.bfloat16)
    # Of MiniCPM's embedding scale 12, embeddings of standard deviation 1 / 12.
    weights = {
        "model.embed_tokens.weight": random(VOCABULARY, HIDDEN, math.sqrt(HIDDEN) / 12),
        "model.norm.weight": ones,
        "lm_head.linear_head.weight": random(1, HIDDEN, 1.0),
    }
    for layer, gain in enumerate(added):
        at = f"model.layers.{layer}."
        weights |= {f"{at}self_attn.{name}_proj.weight": random(HIDDEN, HIDDEN, 1.5)
                    for name in "qk"}  # fmt: skip
        weights |= {
            f"{at}self_attn.v_proj.weight": random(HIDDEN, HIDDEN, 1.0),
            f"{at}self_attn.o_proj.weight": random(HIDDEN, HIDDEN, AMPLITUDE * gain),
            f"{at}mlp.gate_proj.weight": random(inner, HIDDEN, 1.0),
            f"{at}mlp.up_proj.weight": random(inner, HIDDEN, 1.0),
            f"{at}mlp.down_proj.weight": random(HIDDEN, inner, AMPLITUDE * gain),
            f"{at}input_layernorm.weight": ones.clone(),
            f"{at}post_attention_layernorm.weight": ones.clone(),
        }
    save_file(weights, folder / "model.safetensors")
    config = {
        "architectures": ["LayerWiseMiniCPMForCausalLM"],
        "model_type": "minicpm",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": inner,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // HEAD_SIZE,
        "num_key_value_heads": HIDDEN // HEAD_SIZE,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "hidden_act": "silu",
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 256,
        "start_layer": FIRST_EXIT,
        "head_multi": False,
        "head_type": "simple",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def add_tokenizer(folder: Path, data: Path) -> Path:
    """Qwen2's tokenizer into a checkpoint, with the bos token that BGE's prompt begins with."""
    source = data / "tokenizers" / "qwen2" / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(source.read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>"}))
    return folder


Requests = list[tuple[str, list[str]]]


def requests(data: Path, collections: tuple[str, ...], num_candidates: int) -> Requests:
    """Queries, each with the texts of its first candidates by BM25, in an order drawn once."""
    found: Requests = []
    for name in collections:
        collection = Collection.load(data / "beir" / name)
        for query, ids in collection.candidates.items():
            texts = [collection.documents.get(one, "") for one in ids]
            texts = [text for text in texts if text][:num_candidates]
            if query in collection.queries and len(texts) == num_candidates:
                found.append((collection.queries[query], texts))
    np.random.default_rng(0).shuffle(found)
    return found
