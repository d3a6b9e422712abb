"""The encoder that BERT and its descendants share: embeddings, then post-norm layers."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packrank.checkpoint.config import ModelConfig
from packrank.models.base import Inputs, Parameters, PoolingHead
from packrank.models.layers import (
    MLP,
    Embeddings,
    FirstTokenAttention,
    PostNormLayer,
    SelfAttention,
    Spans,
    offsets,
)
from packrank.models.program import Array, Extent, Program
from packrank.models.staged import StagedModel, State, nowhere
from packrank.request import Int32, Pack


@dataclass(frozen=True)
class Names:
    """Where a checkpoint keeps its weights; the defaults are BERT's."""

    tokens: str = "embeddings.word_embeddings"
    positions: str = "embeddings.position_embeddings"
    types: str = "embeddings.token_type_embeddings"
    norm: str = "embeddings.LayerNorm"
    layer: str = "encoder.layer.{}."
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    joined: str | None = None  # of those three as one, where a checkpoint has them so
    attention_out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    mlp_norm: str = "output.LayerNorm"


class PostNormModel(StagedModel):
    """A post-norm encoder; a subclass says where its weights are and what its head is.

    Attributes:
        names: of the encoder's weights.
        embeddings: ids to what the first layer reads.
    """

    names: Names = Names()

    def __init__(
        self, config: ModelConfig, parameters: Parameters, *, head: bool | PoolingHead
    ) -> None:
        super().__init__(config, parameters, head=head)
        self.embeddings = self._load_embeddings(parameters)
        self._layers = [self._load_layer(parameters, i) for i in range(config.num_layers)]
        self._exits = {
            layer: self._load_head(replace(parameters.of_head, prefix=f"exits.{layer}."))
            for layer in (config.inner_exits if head else ())
        }

    def _load_embeddings(self, parameters: Parameters) -> Embeddings:
        config, names, size = self.config, self.names, self.config.embedding_size
        types = config.type_vocab_size
        return Embeddings(
            parameters.matrix(names.tokens, config.vocab_size, size),
            self._position_table(parameters, size),
            parameters.matrix(names.types, types, size) if types else None,
            parameters.norm(names.norm, size, config.norm_eps),
        )

    def _position_table(self, parameters: Parameters, size: int) -> Tensor | None:
        if not self._has_positions:
            return None
        return parameters.matrix(self.names.positions, self.config.max_position_embeddings, size)

    @property
    def _has_positions(self) -> bool:
        """Whether there is a table of positions."""
        return True

    def _qkv(self, parameters: Parameters, stem: str) -> tuple[Tensor, Tensor]:
        """[3 * hidden, hidden] and its bias, of the layer whose names begin so."""
        names, hidden = self.names, self.config.hidden_size
        apart = f"{parameters.prefix}{stem}{names.query}.weight" in parameters.weights
        if names.joined and not apart:
            joined = stem + names.joined
            return (
                parameters.matrix(joined, 3 * hidden, hidden),
                parameters.vector(f"{joined}.bias", 3 * hidden),
            )
        every = [stem + name for name in (names.query, names.key, names.value)]
        return (
            torch.cat([parameters.matrix(name, hidden, hidden) for name in every]),
            torch.cat([parameters.vector(f"{name}.bias", hidden) for name in every]),
        )

    def _attention_options(self, parameters: Parameters, stem: str) -> dict[str, Any]:
        """What `SelfAttention` is told beside its weights."""
        return {}

    def _mlp(self, parameters: Parameters, stem: str) -> MLP:
        config, names = self.config, self.names
        hidden, inner = config.hidden_size, config.intermediate_size
        return MLP(
            parameters.linear(stem + names.up, hidden, inner, activation=config.activation),
            parameters.linear(stem + names.down, inner, hidden),
        )

    def _load_layer(self, parameters: Parameters, index: int) -> PostNormLayer:
        config, names = self.config, self.names
        hidden, eps = config.hidden_size, config.norm_eps
        stem = names.layer.format(index)
        is_last = index == config.num_layers - 1
        attend = FirstTokenAttention if is_last and self._first_token_only else SelfAttention
        return PostNormLayer(
            attention=attend(
                *self._qkv(parameters, stem),
                parameters.linear(stem + names.attention_out, hidden, hidden),
                config.num_heads,
                **self._attention_options(parameters, stem),
                deterministic=parameters.deterministic,
            ),
            attention_norm=parameters.norm(stem + names.attention_norm, hidden, eps),
            mlp=self._mlp(parameters, stem),
            mlp_norm=parameters.norm(stem + names.mlp_norm, hidden, eps),
        )

    def arrays(self, pack: Pack) -> dict[str, Array]:
        """Token ids, and positions and token types where the model has tables of them."""
        arrays = super().arrays(pack)
        if self._has_positions:
            arrays["positions"] = Array(self._positions(pack), "token")
        if self.config.type_vocab_size:
            arrays["token_types"] = Array(pack.token_types, "token")
        return arrays

    def begin(self, pack: Pack) -> State:
        """The sequences before the first layer, each by itself."""
        return replace(self._entered(self.inputs(pack)), cu_seqlens=pack.cu_seqlens)

    def exit_scoring(self, pack: Pack, stops: tuple[int, ...]) -> Program:
        """What the heads say after some numbers of layers, as a program."""
        return replace(
            self.scoring(pack),
            kind=("exits", stops),
            forward=lambda there, extent: self._at_each(
                stops, self._entered(Inputs.of(there, extent))
            ),
        )

    def spared(self, extent: Extent, stop: int) -> int:
        """Tokens for which the last of `stop` layers need not run: all but firsts, at the end."""
        is_whole = stop == len(self._layers) and self._first_token_only
        return extent.tokens - extent.sequences if is_whole else 0

    def _entered(self, inputs: Inputs) -> State:
        count = len(inputs.spans.first)
        alone = np.full(count, -1, dtype=np.int32)
        return State(self._embed(inputs), None, nowhere(count), alone, 0, spans=inputs.spans)

    def advance(self, state: State, stop: int, *, last_only: bool = False) -> State:
        """The sequences after `stop` layers; of each its first token alone after all of them."""
        x, spans, computed, spared = state.x, self._spans(state), state.computed, 0
        for layer in self._layers[state.num_layers : stop]:
            spared = len(x)
            x = layer(x, spans)
            computed += len(x)
            spared -= len(x)
        after = replace(state, x=x, num_layers=stop, computed=computed, spared=spared, spans=spans)
        if stop < len(self._layers) or not self._first_token_only:
            return after
        rows = np.arange(len(state.cu_seqlens), dtype=np.int32)
        return replace(after, cu_seqlens=rows, spans=None, has_one_row_each=True)

    def exit_logits(self, state: State, place: int) -> Tensor:
        """[M, num_labels] float32, what the head of this layer says of first tokens."""
        head = self._exits.get(state.num_layers, self._head)
        assert head is not None
        if state.has_one_row_each:
            return head(state.x)
        return head(state.x.index_select(0, self._spans(state).first))

    def _spans(self, state: State) -> Spans:
        """Where a state's sequences lie; one upload, unless that is known on the device."""
        if state.spans is not None:
            known: Spans = state.spans
            return known
        there = self.upload({"cu_seqlens": state.cu_seqlens})["cu_seqlens"]
        return Spans.of(there, len(state.x), int(np.diff(state.cu_seqlens).max(initial=0)))

    def _encode(self, inputs: Inputs) -> Tensor:
        x = self._embed(inputs)
        for layer in self._layers:
            x = layer(x, inputs.spans)
        return x

    def _embed(self, inputs: Inputs) -> Tensor:
        """[T, hidden], what the first layer reads."""
        return self.embeddings(inputs.token_ids, inputs.positions, inputs.token_types)

    def _positions(self, pack: Pack) -> Int32:
        """[T] int32, the row of the position table for each token."""
        return offsets(pack.cu_seqlens)
