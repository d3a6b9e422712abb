"""DeBERTa-v2 and v3: BERT's layers, distances of tokens in attention, for some a convolution."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from packrank.checkpoint.config import ModelConfig
from packrank.checkpoint.deberta_config import Convolution, DebertaOptions
from packrank.errors import ModelError, RangeError
from packrank.models.base import Parameters, PoolingHead
from packrank.models.layers import (
    Embeddings,
    Head,
    LayerNorm,
    Linear,
    PostNormLayer,
    Spans,
)
from packrank.models.post_norm import Names, PostNormModel
from packrank.models.program import Program
from packrank.models.relative import Distances, RelativeTable, distance_rows
from packrank.request import Int32, Pack


class DebertaModel(PostNormModel):
    """Head: classifier(act(pooler(h[0])))."""

    prefix = "deberta."
    unseen_tokens = (
        "tokens that are not attended to have no defined vectors in DeBERTa; let mask tokens be "
        "attended to, or take another encoder"
    )
    names = Names(
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
    )

    def __init__(
        self, config: ModelConfig, parameters: Parameters, *, head: bool | PoolingHead
    ) -> None:
        assert config.deberta is not None
        self._options = config.deberta
        rows = partial(distance_rows, options=self._options)
        self._distances = Distances(rows, parameters.device)
        self._relative = _embedded(parameters, config, self._options)
        super().__init__(config, parameters, head=head)
        if self._options.convolution is not None:
            convolved = _Convolution.load(parameters, config, self._options.convolution)
            self._layers[0] = _ConvolvedLayer(**vars(self._layers[0]), convolution=convolved)

    def encoding(
        self, pack: Pack, num_keys: Int32 | None = None, rows: Int32 | None = None
    ) -> Program:
        """See `Model.encoding`.

        Raises:
            ModelError: tokens are left out of the keys. DeBERTa's own code takes the embeddings
                of such tokens away and lets them attend to all alike, padding included.
        """
        if num_keys is not None and (num_keys < pack.lengths).any():
            raise ModelError(self.unseen_tokens)
        return super().encoding(pack, num_keys, rows)

    def _load_embeddings(self, parameters: Parameters) -> Embeddings:
        config, names = self.config, self.names
        narrow, wide, types = config.embedding_size, config.hidden_size, config.type_vocab_size
        return Embeddings(
            parameters.matrix(names.tokens, config.vocab_size, narrow),
            self._position_table(parameters, narrow),
            parameters.matrix(names.types, types, narrow) if types else None,
            parameters.norm(names.norm, wide, config.norm_eps),
            None
            if narrow == wide
            else parameters.linear("embeddings.embed_proj", narrow, wide, bias=False),
        )

    def _load_head(self, parameters: Parameters) -> Head:
        return parameters.head(
            "pooler.dense",
            self.config.hidden_size,
            self._options.pooler_activation,
            "classifier",
            self.num_labels,
        )

    @property
    def _has_positions(self) -> bool:
        return self._options.has_positions

    def _attention_options(self, parameters: Parameters, stem: str) -> dict[str, Any]:
        size, terms = self.config.hidden_size // self.config.num_heads, len(self._options.terms)
        return {
            "scale": (size * (1 + terms)) ** -0.5,
            "relative": self._relative_table(parameters, stem),
        }

    def _relative_table(self, parameters: Parameters, stem: str) -> RelativeTable | None:
        """Projections of distances, which hang on weights alone."""
        options, names, hidden = self._options, self.names, self.config.hidden_size
        embedded = self._relative
        if embedded is None or not options.terms:
            return None
        own = (f"{stem}attention.self.pos_key_proj", f"{stem}attention.self.pos_query_proj")
        shared = (stem + names.key, stem + names.query)
        exact = _exact(parameters)

        def project(term: str, name: str) -> Tensor | None:
            if term not in options.terms:
                return None
            weight, bias = exact.matrix(name, hidden, hidden), exact.vector(f"{name}.bias", hidden)
            projected = F.linear(embedded, weight, bias)
            heads = projected.view(len(projected), self.config.num_heads, -1)
            most = torch.finfo(parameters.dtype).max
            if heads.device.type != "meta" and heads.abs().max() > most:
                raise RangeError(
                    f"{name} of a distance is more than {parameters.dtype} can hold; use another"
                )
            return heads.to(parameters.dtype).to(parameters.device)

        keys, queries = shared if options.shares_projections else own
        return RelativeTable(project("c2p", keys), project("p2c", queries), self._distances)


def _exact(parameters: Parameters) -> Parameters:
    """The same in float32 on the CPU, where nothing rounds products; "meta" stays nowhere."""
    device = parameters.device if parameters.device.type == "meta" else torch.device("cpu")
    return replace(parameters, dtype=torch.float32, device=device)


def _embedded(
    parameters: Parameters, config: ModelConfig, options: DebertaOptions
) -> Tensor | None:
    """[2 * span, hidden] float32, what stands for each distance."""
    if not options.is_relative:
        return None
    exact, hidden = _exact(parameters), config.hidden_size
    table = exact.matrix("encoder.rel_embeddings", 2 * options.span, hidden)
    if not options.norms_distances:
        return table
    norm = exact.norm("encoder.LayerNorm", hidden, config.norm_eps)
    return F.layer_norm(table, (hidden,), norm.weight, norm.bias, norm.eps)


@dataclass(frozen=True)
class _Convolution:
    """act(conv(x)) over neighbours within a sequence, and the norm of its sum with a layer's.

    Attributes:
        product: of a token and its neighbours side by side, [size * hidden] to [hidden].
        size: how many they are, itself in the middle.
        norm: of the sum.
    """

    product: Linear
    size: int
    norm: LayerNorm

    @classmethod
    def load(
        cls, parameters: Parameters, config: ModelConfig, given: Convolution
    ) -> "_Convolution":
        hidden, stem = config.hidden_size, "encoder.conv."
        width = hidden // given.groups
        weight = parameters.weights.take(
            f"{parameters.prefix}{stem}conv.weight",
            (hidden, width, given.size),
            parameters.dtype,
            parameters.device,
        )
        whole = weight.new_zeros(hidden, given.size, hidden)
        for start in range(0, hidden, width):
            group = slice(start, start + width)  # it sees its own channels alone
            whole[group, :, group] = weight[group].transpose(1, 2)
        product = Linear(
            whole.view(hidden, -1),
            parameters.vector(f"{stem}conv.bias", hidden),
            activation=given.activation,
            deterministic=parameters.deterministic,
        )
        norm = parameters.norm(f"{stem}LayerNorm", hidden, config.norm_eps)
        return cls(product, given.size, norm)

    def __call__(self, x: Tensor, spans: Spans) -> Tensor:
        """[T, hidden] -> [T, hidden], before the norm."""
        rows = torch.arange(len(x), device=x.device)
        owners = torch.searchsorted(spans.cu_seqlens, rows.to(torch.int32), right=True)
        seen = []
        for step in range(-(self.size // 2), self.size // 2 + 1):
            there = (rows + step).clamp(0, len(x) - 1)
            is_own = (there == rows + step) & (owners[there] == owners)
            seen.append(torch.where(is_own[:, None], x[there], 0))
        return self.product(torch.cat(seen, dim=1))


@dataclass(frozen=True)
class _ConvolvedLayer(PostNormLayer):
    """x = norm(layer(x) + convolution(x))."""

    convolution: _Convolution

    def __call__(self, x: Tensor, spans: Spans) -> Tensor:
        """[T, hidden] -> a row for each that the attention answers for."""
        seen = self.attention.queried(self.convolution(x, spans), spans)
        normed, _ = self.convolution.norm(super().__call__(x, spans), seen)
        return normed
