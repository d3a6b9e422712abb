"""The models that have a name here: sizes of published ones, whose speed is that of theirs."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A model's sizes.

    Attributes:
        family: "bert", "xlm-roberta", "modernbert", "qwen2" or "minicpm".
        layers: how many.
        hidden: columns of hidden states.
        heads: of attention.
        inner: columns between the two products after it.
        key_heads: of keys and values; None: as many as `heads`.
        like: models of this shape.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    inner: int
    key_heads: int | None = None
    like: str = ""

    @property
    def head_size(self) -> int:
        """Columns of one head."""
        return self.hidden // self.heads

    @property
    def products(self) -> list[tuple[int, int]]:
        """(columns in, columns out) of the products of a layer; of a gated one both halves."""
        wide = self.inner if self.family in ("bert", "xlm-roberta") else 2 * self.inner
        keys = 2 * self.head_size * (self.key_heads or self.heads)
        return [
            (self.hidden, self.hidden + keys),
            (self.hidden, self.hidden),
            (self.hidden, wide),
            (self.inner, self.hidden),
        ]

    @property
    def parameters(self) -> int:
        """Of the layers' products."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.products)

    @property
    def positions(self) -> int:
        """Most tokens of a sequence."""
        known: int = _CONFIGS[self.family]["max_position_embeddings"]
        return known - 2 if self.family == "xlm-roberta" else known  # it counts from the padding's

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says of it, but for what depends on the tokenizer."""
        common = {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "initializer_range": 0.02,
        }
        return common | _CONFIGS[self.family] | self._of_decoders()

    def _of_decoders(self) -> dict[str, Any]:
        if self.family not in ("qwen2", "minicpm"):
            return {}
        return {"num_key_value_heads": self.key_heads or self.heads}


_ENCODER = {"hidden_act": "gelu", "num_labels": 1, "position_embedding_type": "absolute"}
_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _ENCODER
    | {"architectures": ["BertForSequenceClassification"], "model_type": "bert",
       "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12},
    "xlm-roberta": _ENCODER
    | {"architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta",
       "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "modernbert": {
        "architectures": ["ModernBertForSequenceClassification"], "model_type": "modernbert",
        "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-5,
        "norm_bias": False, "attention_bias": False, "mlp_bias": False, "classifier_bias": False,
        "classifier_pooling": "mean", "classifier_activation": "gelu", "local_attention": 128,
        "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0, "num_labels": 1},
    "qwen2": {
        "architectures": ["Qwen2ForSequenceClassification"], "model_type": "qwen2",
        "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "tie_word_embeddings": True, "num_labels": 1},
    "minicpm": {
        "architectures": ["LayerWiseMiniCPMForCausalLM"], "model_type": "minicpm",
        "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256,
        "start_layer": 8, "head_multi": True, "head_type": "simple"},
}  # fmt: skip

# Sizes of config.json of the first model that each is like.
SHAPES = {
    "MiniLM-L6": Shape("bert", 6, 384, 12, 1536, like="cross-encoder/ms-marco-MiniLM-L6-v2"),
    "base": Shape("xlm-roberta", 12, 768, 12, 3072, like="BAAI/bge-reranker-base"),
    "large": Shape(
        "xlm-roberta", 24, 1024, 16, 4096, like="BAAI/bge-reranker-large, bge-reranker-v2-m3"
    ),
    "ModernBERT-base": Shape(
        "modernbert", 22, 768, 12, 1152, like="Alibaba-NLP/gte-reranker-modernbert-base"
    ),
    "Qwen2.5-0.5B": Shape("qwen2", 24, 896, 14, 4864, 2, like="mixedbread-ai/mxbai-rerank-base-v2"),
    "Qwen2.5-1.5B": Shape(
        "qwen2", 28, 1536, 12, 8960, 2, like="mixedbread-ai/mxbai-rerank-large-v2"
    ),
    "MiniCPM-2B": Shape(
        "minicpm", 40, 2304, 36, 5760, like="BAAI/bge-reranker-v2-minicpm-layerwise"
    ),
}
# After how many layers a layerwise model is measured.
EXITS = (8, 16, 28, 40)
