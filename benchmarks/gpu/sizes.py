"""Sizes of what is timed: models, packs, texts. No torch, so that arithmetic goes by the same."""

from dataclasses import dataclass
from typing import Any

# A pack, and the length of its sequences, where a model runs alone.
TOKENS, LENGTH = 16384, 128
DECODER_LENGTH = 512
# Candidates of one query: tokens before each, and of the documents, 100 on average.
PREFIX, CANDIDATES, SHORTEST, LONGEST = 60, 100, 50, 150
FEW_CANDIDATES = 20  # whose pack a CUDA graph runs; of 100 it is too large for that
# Sequences that generate, the tokens that each has, and those of a page.
SEQUENCES, HAVE, PAGE = (16, 64), 1500, 16
# Most tokens of a pair, texts in.
CAPS = (128, 512)

# Shape -> (transformers' name, what differs from a BERT of its width).
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
_ROBERTA = {"type_vocab_size": 1, "max_position_embeddings": 514, "layer_norm_eps": 1e-5}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "MiniLM-L6": (
        "Bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
         "intermediate_size": 1536, "max_position_embeddings": 512},
    ),
    "XLM-R base": ("XLMRoberta", _BASE | _ROBERTA | {"intermediate_size": 3072}),
    "XLM-R large": ("XLMRoberta", _LARGE | _ROBERTA | {"intermediate_size": 4096}),
    "ModernBERT-base": (
        "ModernBert",
        {"hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12,
         "intermediate_size": 1152, "max_position_embeddings": 8192},
    ),
}  # fmt: skip

# huggingface.co/microsoft/deberta-v3-base, config.json.
DEBERTAS: dict[str, tuple[str, dict[str, Any]]] = {
    "DeBERTa-v3-base": (
        "DebertaV2",
        _BASE | {"intermediate_size": 3072, "vocab_size": 128100, "max_position_embeddings": 512,
                 "relative_attention": True, "position_buckets": 256, "share_att_key": True,
                 "norm_rel_ebd": "layer_norm", "pos_att_type": ["p2c", "c2p"],
                 "max_relative_positions": -1, "position_biased_input": False,
                 "type_vocab_size": 0, "layer_norm_eps": 1e-7},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Distances:
    """Attention with distances, heads of 64.

    Attributes:
        heads: how many.
        tables: of keys and of queries; else a number for each distance and head.
        rows: that distances have.
        dtype: by name.
    """

    heads: int
    tables: int
    rows: int
    dtype: str

    @property
    def operations(self) -> int:
        """Of a pair of tokens and a dimension: as many for each table as for keys."""
        return 4 + 2 * self.tables


DISTANCES = {
    "DeBERTa-v3-base": Distances(12, 2, 512, "float16"),
    "DeBERTa-v3-large": Distances(16, 2, 512, "float16"),
    "flan-t5-base": Distances(12, 0, 32, "bfloat16"),
    "flan-t5-large": Distances(16, 0, 32, "bfloat16"),
}
# Heads, heads of keys, and their size.
PAGED = {"Qwen2.5-0.5B": (14, 2, 64), "Mistral-7B": (32, 8, 128)}

# Sizes of config.json: huggingface.co/Qwen/Qwen2.5-0.5B and -1.5B,
# huggingface.co/BAAI/bge-reranker-v2-minicpm-layerwise.
_QWEN = {"vocab_size": 151936, "num_key_value_heads": 2, "max_position_embeddings": 32768,
         "rms_norm_eps": 1e-6, "rope_theta": 1e6}  # fmt: skip
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2.5-0.5B": (
        "Qwen2",
        _QWEN | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                 "num_attention_heads": 14},
    ),
    "Qwen2.5-1.5B": (
        "Qwen2",
        _QWEN | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                 "num_attention_heads": 12},
    ),
    "MiniCPM-2B-layerwise": (
        "Llama",
        {"vocab_size": 122753, "hidden_size": 2304, "intermediate_size": 5760,
         "num_hidden_layers": 40, "num_attention_heads": 36, "num_key_value_heads": 36,
         "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 1e4},
    ),
}  # fmt: skip

# Words of (query, document) at the 5th, 15th, ... 95th percentile of scifact and cranfield pairs.
WORDS = [(6, 87), (8, 127), (10, 153), (12, 171), (13, 198), (15, 218), (17, 244), (20, 267),
         (23, 302), (27, 385)]  # fmt: skip
# Of running English words, about this share is two pieces or more.
SPLIT_SHARE = 0.3
