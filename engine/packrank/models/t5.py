"""Encoder-decoders that score: T5, Flan-T5, UL2, monoT5, duoT5 and mT5."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from packrank.checkpoint.config import ModelConfig
from packrank.checkpoint.t5_config import T5Options
from packrank.errors import ModelError
from packrank.models.base import Inputs, Model, Parameters
from packrank.models.decoder_layers import Projections, RMSNorm
from packrank.models.layers import MLP, Head, Linear, Spans
from packrank.models.program import Program
from packrank.models.relative import Distances, RelativeTable, bucket_rows
from packrank.request import Int32, Pack
from packrank_kernels import attention


@dataclass(frozen=True)
class T5Settings:
    """How an encoder-decoder is used: what its decoder reads, and which logits are wanted.

    Attributes:
        decoder_token_ids: what the decoder reads, beginning with the config's decoder_start.
        label_token_ids: tokens of the vocabulary, whose logits after the last of these are the
            columns of a sequence's row.
        difference: of two labels one column instead, the logit of the first less the second's.
    """

    decoder_token_ids: tuple[int, ...]
    label_token_ids: tuple[int, ...]
    difference: bool = False


class T5Model(Model):
    """A packed encoder, and a decoder that reads the same few tokens beside each sequence.

    What is encoded is encoded once, however many labels are asked for; of the last layer of the
    decoder only the last token runs. Hidden states leave float16's range, which is refused.
    """

    prefix = ""

    def __init__(
        self, config: ModelConfig, parameters: Parameters, settings: T5Settings | None
    ) -> None:
        super().__init__(config, parameters, head=False)
        assert config.t5 is not None
        self.settings, self._options = _checked(config, parameters, settings), config.t5
        table = _name_of(parameters, config.t5, "encoder.embed_tokens.weight")
        shape = (config.vocab_size, config.hidden_size)
        weights = parameters.weights
        self._tokens = weights.take(table, shape, self.dtype, self.device)
        table = _name_of(parameters, config.t5, "decoder.embed_tokens.weight")
        read = weights.take_rows(table, [*self.settings.decoder_token_ids], shape)
        self._read = read.to(self.dtype).to(self.device)
        self._encoder = _Stack.load(parameters, config, "encoder", config.num_layers)
        self._decoder = _Stack.load(parameters, config, "decoder", config.t5.num_decoder_layers)
        table = _name_of(parameters, config.t5, "lm_head.weight")
        rows = weights.take_rows(table, [*self.settings.label_token_ids], shape)
        if self.settings.difference:
            # One product of the difference is more exact than the difference of two.
            rows = rows[:1] - rows[1:]
        self._labels = Linear(rows.to(self.device), deterministic=parameters.deterministic)

    @property
    def num_labels(self) -> int:
        """Columns of the logits."""
        return 1 if self.settings.difference else len(self.settings.label_token_ids)

    def encoding(
        self, pack: Pack, num_keys: Int32 | None = None, rows: Int32 | None = None
    ) -> Program:
        """See `Model.encoding`. Raises ModelError: nothing reads an encoder's states alone."""
        raise ModelError(
            f"{self.config.architecture} is an encoder-decoder; it gives scores, not vectors"
        )

    def score(self, inputs: Inputs) -> Tensor:
        """See `Model.score`."""
        encoded, spans = self._encode(inputs), inputs.spans
        count, length = len(spans.cu_first) - 1, len(self._read)
        asking = replace(spans, cu_seqlens=spans.cu_first * length, max_seqlen=length)
        x, update = self._read.repeat(count, 1), None
        for layer in self._decoder.layers[:-1]:
            x, update = layer(x, update, asking, encoded, spans)
        x, update = self._decoder.layers[-1](x, update, asking, encoded, spans, last_only=True)
        normed, _ = self._decoder.norm(update.float(), x.float())
        logits = self._labels(normed)
        return logits * self.config.hidden_size**-0.5 if self._options.scaled else logits

    def _encode(self, inputs: Inputs) -> Tensor:
        """[T, hidden], what the encoder says of every token, normed."""
        x: Tensor = self._tokens.index_select(0, inputs.token_ids)
        update: Tensor | None = None
        for layer in self._encoder.layers:
            x, update = layer(x, update, inputs.spans)
        return self._encoder.norm(x if update is None else update, None if update is None else x)[0]

    def _load_head(self, parameters: Parameters) -> Head:
        raise ModelError(f"{self.config.architecture} has no classifier")


@dataclass(frozen=True)
class _Attention:
    """Tokens attend within their sequence, each head with a bias for every distance.

    Attributes:
        qkv: the projections of queries, keys and values.
        out: the output projection.
        num_heads: H.
        relative: the biases, which all layers share.
        causal: see `packrank_kernels.attention`; likewise deterministic.
    """

    qkv: Projections
    out: Linear
    num_heads: int
    relative: RelativeTable
    causal: bool
    deterministic: bool

    def __call__(self, x: Tensor, spans: Spans, last: Tensor | None = None) -> Tensor:
        """[T, hidden] -> [T, hidden]; of the last tokens alone, `last`, [N, hidden] -> [N, ...]."""
        q, kv = self.qkv(x, last)
        k, v = kv.view(len(x), 2, self.num_heads, -1).unbind(1)
        y = attention(
            q.view(len(q), self.num_heads, -1),
            k,
            v,
            spans.cu_seqlens if last is None else spans.cu_first,
            spans.cu_seqlens,
            scale=1.0,
            causal=self.causal,
            relative=self.relative.upto(spans.max_seqlen),
            max_seqlen_q=spans.max_seqlen if last is None else 1,
            max_seqlen_k=spans.max_seqlen,
            deterministic=self.deterministic,
        )
        return self.out(y.flatten(1))


@dataclass(frozen=True)
class _CrossAttention:
    """The decoder's tokens attend to all that is encoded of their sequence.

    Attributes:
        queries: their projection.
        rest: the projections of keys and values.
        out: the output projection.
        num_heads: H.
        deterministic: see `packrank_kernels.attention`.
    """

    queries: Linear
    rest: Linear
    out: Linear
    num_heads: int
    deterministic: bool

    def __call__(self, x: Tensor, asking: Spans, encoded: Tensor, spans: Spans) -> Tensor:
        """[M, hidden], as `asking` has them, and [T, hidden] of `spans` -> [M, hidden]."""
        k, v = self.rest(encoded).view(len(encoded), 2, self.num_heads, -1).unbind(1)
        y = attention(
            self.queries(x).view(len(x), self.num_heads, -1),
            k,
            v,
            asking.cu_seqlens,
            spans.cu_seqlens,
            scale=1.0,
            max_seqlen_q=asking.max_seqlen,
            max_seqlen_k=spans.max_seqlen,
            deterministic=self.deterministic,
        )
        return self.out(y.flatten(1))


@dataclass(frozen=True)
class _Layer:
    """x += attention(norm(x)); x += cross(norm(x)); x += mlp(norm(x)), that left to the next norm.

    Attributes:
        attention_norm: before attention; likewise cross_norm, mlp_norm.
        cross: of a decoder; None of an encoder.
    """

    attention_norm: RMSNorm
    attention: _Attention
    cross_norm: RMSNorm | None
    cross: _CrossAttention | None
    mlp_norm: RMSNorm
    mlp: MLP

    def __call__(
        self,
        x: Tensor,
        update: Tensor | None,
        spans: Spans,
        encoded: Tensor | None = None,
        of: Spans | None = None,
        *,
        last_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """(x, update) -> (x, update), their sum being the layer's input and output.

        Args:
            x: [T, hidden].
            update: [T, hidden], or None: there is nothing to be added.
            spans: where sequences lie in them; of a decoder all are of one length.
            encoded: of a decoder: what is attended to.
            of: where sequences lie in that.
            last_only: of a decoder: the last token of each sequence alone comes out, [N, hidden].
        """
        if update is None:
            normed, x = self.attention_norm(x)
        else:
            normed, x = self.attention_norm(update, x)
        last = None
        if last_only:
            x, last = (each[spans.max_seqlen - 1 :: spans.max_seqlen] for each in (x, normed))
            x, last = x.contiguous(), last.contiguous()
        attended = self.attention(normed, spans, last)
        if self.cross is not None and self.cross_norm is not None:
            assert encoded is not None and of is not None
            normed, x = self.cross_norm(attended, x)
            if last_only:
                spans = replace(spans, cu_seqlens=spans.cu_first, max_seqlen=1)
            attended = self.cross(normed, spans, encoded, of)
        normed, x = self.mlp_norm(attended, x)
        return x, self.mlp(normed)


@dataclass(frozen=True)
class _Stack:
    """Layers, and the norm after the last."""

    layers: list[_Layer]
    norm: RMSNorm

    @classmethod
    def load(
        cls, parameters: Parameters, config: ModelConfig, name: str, num_layers: int
    ) -> "_Stack":
        """The encoder or the decoder of a checkpoint."""
        assert config.t5 is not None
        causal, exact = name == "decoder", replace(parameters, dtype=torch.float32)
        stem = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias"
        bias = exact.matrix(stem, config.t5.buckets, config.num_heads)
        rows = partial(bucket_rows, options=config.t5, causal=causal)
        relative = RelativeTable(None, None, Distances(rows, parameters.device), bias)
        make = partial(_layer, parameters, config, relative, causal)
        layers = [make(f"{name}.block.{index}.layer.") for index in range(num_layers)]
        return cls(layers, _norm(parameters, config, f"{name}.final_layer_norm"))


def _norm(parameters: Parameters, config: ModelConfig, name: str) -> RMSNorm:
    return RMSNorm(parameters.vector(f"{name}.weight", config.hidden_size), config.norm_eps)


def _layer(
    parameters: Parameters, config: ModelConfig, relative: RelativeTable, causal: bool, stem: str
) -> _Layer:
    """A layer, whose names begin with `stem`."""
    assert config.t5 is not None
    hidden, inner, heads = config.hidden_size, config.intermediate_size, config.num_heads
    width, fixed = heads * config.t5.head_size, parameters.deterministic
    norm: Callable[[str], RMSNorm] = partial(_norm, parameters, config)

    def joined(names: list[str], rows: int) -> Tensor:
        return torch.cat([parameters.matrix(name, rows, hidden) for name in names])

    at, mlp = f"{stem}0.SelfAttention.", f"{stem}{2 if causal else 1}.DenseReluDense."
    qkv = joined([f"{at}{part}" for part in "qkv"], width)
    cross, across = None, f"{stem}1.EncDecAttention."
    if causal:
        cross = _CrossAttention(
            queries=parameters.linear(f"{across}q", hidden, width, bias=False),
            rest=Linear(joined([f"{across}{part}" for part in "kv"], width), deterministic=fixed),
            out=parameters.linear(f"{across}o", width, hidden, bias=False),
            num_heads=heads,
            deterministic=fixed,
        )
    up = joined([f"{mlp}wi_0", f"{mlp}wi_1"] if config.t5.gated else [f"{mlp}wi"], inner)
    return _Layer(
        attention_norm=norm(f"{stem}0.layer_norm"),
        attention=_Attention(
            qkv=Projections(qkv, None, width, whole=True, deterministic=fixed),
            out=parameters.linear(f"{at}o", width, hidden, bias=False),
            num_heads=heads,
            relative=relative,
            causal=causal,
            deterministic=fixed,
        ),
        cross_norm=norm(f"{stem}1.layer_norm") if causal else None,
        cross=cross,
        mlp_norm=norm(f"{stem}{2 if causal else 1}.layer_norm"),
        mlp=MLP(
            Linear(up, activation=config.activation, gated=config.t5.gated, deterministic=fixed),
            parameters.linear(f"{mlp}wo", inner, hidden, bias=False),
        ),
    )


def _checked(
    config: ModelConfig, parameters: Parameters, settings: T5Settings | None
) -> T5Settings:
    """The settings, if the model can be run so."""
    name = config.architecture
    if settings is None or not settings.label_token_ids or not settings.decoder_token_ids:
        raise ModelError(
            f"{name} scores by tokens, and none is named; pass the tokens that its decoder reads "
            "and those whose logits are wanted"
        )
    if min(*settings.label_token_ids, *settings.decoder_token_ids) < 0:
        raise ModelError(f"{settings} names a token of a negative number")
    if settings.difference and len(settings.label_token_ids) != 2:
        raise ModelError(f"{settings} asks for the difference of two labels and does not name two")
    if parameters.dtype == torch.float16:
        raise ModelError(
            f"{name}: hidden states of T5 leave float16's range; run it in bfloat16 or float32"
        )
    if parameters.weights.lora is not None:
        raise ModelError(
            f"adapters of {name} are not supported; merge it into its base (peft: "
            "merge_and_unload, save_pretrained) and pass that folder"
        )
    return settings


def _name_of(parameters: Parameters, options: T5Options, name: str) -> str:
    """The matrix of a row a token that stands for one of this name.

    Of those that are tied a checkpoint may hold any, and one that holds several means each. Of
    a head that config.json does not tie, none but its own: it was left out by mistake.
    """
    others = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    there = [one for one in (name, *others) if one in parameters.weights]
    if name == "lm_head.weight" and there[:1] != [name] and not options.tied:
        raise ModelError(
            f"the checkpoint has no {name}, and by config.json (tie_word_embeddings: false) "
            f"{others[0]} does not stand for it; is a file missing?"
        )
    return there[0] if there else name
