"""ModernBERT: pre-norm layers, rotary positions, gated MLPs, windows between full layers."""

from torch import Tensor

from packrank.checkpoint.config import ModelConfig
from packrank.checkpoint.modernbert_config import LayerAttention, ModernBertOptions
from packrank.models.base import Inputs, Model, Parameters, PoolingHead
from packrank.models.layers import (
    MLP,
    Embeddings,
    FirstTokenAttention,
    Head,
    PreNormLayer,
    RotaryTable,
    SelfAttention,
    rotary_table,
)


class ModernBertModel(Model):
    """Head: classifier(norm(act(dense(pooled)))), pooled from the first token or the mean."""

    prefix = "model."

    def __init__(
        self, config: ModelConfig, parameters: Parameters, *, head: bool | PoolingHead
    ) -> None:
        super().__init__(config, parameters, head=head)
        size, eps, bias = config.hidden_size, config.norm_eps, self._options.norm_bias
        self.embeddings = Embeddings(
            parameters.matrix("embeddings.tok_embeddings", config.vocab_size, size),
            None,
            None,
            parameters.norm("embeddings.norm", size, eps, bias=bias),
        )
        rotary = {
            theta: rotary_table(theta, size // config.num_heads, self.device)
            for theta in {layer.theta for layer in self._options.attention}
        }
        self._layers = [
            self._load_layer(parameters, i, layer, rotary[layer.theta])
            for i, layer in enumerate(self._options.attention)
        ]
        self._norm = parameters.norm("final_norm", size, eps, bias=bias)

    @property
    def _options(self) -> ModernBertOptions:
        assert self.config.modernbert is not None
        return self.config.modernbert

    def _load_head(self, parameters: Parameters) -> Head:
        config, options = self.config, self._options
        size = config.hidden_size
        return parameters.head(
            "head.dense",
            size,
            options.head_activation,
            "classifier",
            config.num_labels,
            bias=options.classifier_bias,
            norm=parameters.norm("head.norm", size, config.norm_eps, bias=options.norm_bias),
        )

    def _load_layer(
        self, parameters: Parameters, index: int, kind: LayerAttention, rotary: RotaryTable
    ) -> PreNormLayer:
        config, options = self.config, self._options
        hidden, inner, eps = config.hidden_size, config.intermediate_size, config.norm_eps
        attention_bias, mlp_bias = options.attention_bias, options.mlp_bias
        stem = f"layers.{index}."
        is_last = index == config.num_layers - 1
        attend = FirstTokenAttention if is_last and self._first_token_only else SelfAttention
        return PreNormLayer(
            attention_norm=(
                parameters.norm(f"{stem}attn_norm", hidden, eps, bias=options.norm_bias)
                if index
                else None
            ),
            attention=attend(
                parameters.matrix(f"{stem}attn.Wqkv", 3 * hidden, hidden),
                parameters.vector(f"{stem}attn.Wqkv.bias", 3 * hidden) if attention_bias else None,
                parameters.linear(f"{stem}attn.Wo", hidden, hidden, bias=attention_bias),
                config.num_heads,
                window=kind.window,
                rotary=rotary,
                deterministic=parameters.deterministic,
            ),
            mlp_norm=parameters.norm(f"{stem}mlp_norm", hidden, eps, bias=options.norm_bias),
            mlp=MLP(
                parameters.linear(
                    f"{stem}mlp.Wi",
                    hidden,
                    inner,
                    bias=mlp_bias,
                    activation=config.activation,
                    gated=True,
                ),
                parameters.linear(f"{stem}mlp.Wo", inner, hidden, bias=mlp_bias),
            ),
        )

    def _encode(self, inputs: Inputs) -> Tensor:
        x, update = self.embeddings(inputs.token_ids, None, None), None
        for layer in self._layers:
            x, update = layer(x, update, inputs.spans)
        normed, _ = self._norm(x, update)
        return normed
