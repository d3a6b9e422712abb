"""gte-multilingual: BERT's layers with rotary positions and gated MLPs, in two sets of names."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from packrank.checkpoint.config import ModelConfig
from packrank.checkpoint.gte_config import GteOptions
from packrank.models.base import Parameters, PoolingHead
from packrank.models.layers import MLP, Head, Linear, RotaryTable
from packrank.models.post_norm import Names, PostNormModel

_NATIVE = Names(
    layer="layers.{}.",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_out="self_attn.o_proj",
    attention_norm="post_attention_layernorm",
    down="mlp.down_proj",
    mlp_norm="post_mlp_layernorm",
)
# Of the authors' own code, whose "new" is the name of the model.
_ORIGINAL = Names(
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    joined="attention.qkv_proj",
    attention_out="attention.o_proj",
    attention_norm="attn_ln",
    down="mlp.down_proj",
    mlp_norm="mlp_ln",
)


class GteModel(PostNormModel):
    """Head: classifier(tanh(pooler(h[0])))."""

    prefix = "gte."
    prefixes = ("new.",)

    def __init__(
        self, config: ModelConfig, parameters: Parameters, *, head: bool | PoolingHead
    ) -> None:
        assert config.gte is not None
        is_original = f"{parameters.prefix}encoder.layer.0.attn_ln.weight" in parameters.weights
        self.names = _ORIGINAL if is_original else _NATIVE
        head_size = config.hidden_size // config.num_heads
        self._rotary = RotaryTable(frequencies(config.gte, head_size), parameters.device)
        super().__init__(config, parameters, head=head)

    @property
    def _has_positions(self) -> bool:
        return False

    def _load_head(self, parameters: Parameters) -> Head:
        stem = "new." if "new.pooler.dense.weight" in parameters.weights else "gte."
        size = self.config.hidden_size
        return parameters.head(f"{stem}pooler.dense", size, "tanh", "classifier", self.num_labels)

    def _attention_options(self, parameters: Parameters, stem: str) -> dict[str, Any]:
        return {"rotary": self._rotary}

    def _mlp(self, parameters: Parameters, stem: str) -> MLP:
        config, inner = self.config, self.config.intermediate_size
        joined = f"{stem}mlp.up_gate_proj"
        if f"{parameters.prefix}{joined}.weight" in parameters.weights:
            up, gate = parameters.matrix(joined, 2 * inner, config.hidden_size).chunk(2)
        else:
            up, gate = (
                parameters.matrix(f"{stem}mlp.{name}_proj", inner, config.hidden_size)
                for name in ("up", "gate")
            )
        return MLP(
            Linear(
                torch.cat([gate, up]),
                activation=config.activation,
                gated=True,
                deterministic=parameters.deterministic,
            ),
            parameters.linear(stem + self.names.down, inner, config.hidden_size),
        )


def frequencies(options: GteOptions, size: int) -> Callable[[], Tensor]:
    """Of rotary positions, stretched by NTK; rounded to float32 as the authors round them.

    Source: NTKScalingRotaryEmbedding of Alibaba-NLP/new-impl, which scales from the first position
    on, since its table is made for `factor` times as many positions as the model has.
    """

    def made() -> Tensor:
        is_mixed = options.mixed is not None
        theta = options.theta * (1.0 if is_mixed else options.factor)
        plain: Tensor = 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
        if options.mixed is None:
            return plain / float(options.factor ** (2 / size))
        step = torch.tensor(options.factor).log() / (size / 2) ** options.mixed
        slopes: Tensor = (step * torch.arange(1, size // 2 + 1).float() ** options.mixed).exp()
        return plain / slopes

    return made
