"""Decoders that score: Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma 2 and BGE's layerwise models."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from packrank.checkpoint.config import ModelConfig
from packrank.errors import ModelError
from packrank.models.base import Inputs, Parameters, PoolingHead, mean_of_each
from packrank.models.course import Compression, Course, Plan
from packrank.models.decoder_layers import (
    CausalAttention,
    DecoderLayer,
    Projections,
    RMSNorm,
    rotary_table,
)
from packrank.models.layers import MLP, Head, Linear, RotaryTable
from packrank.models.prefixes import share_prefixes
from packrank.models.program import Array, Extent, Program
from packrank.models.staged import StagedModel, State, nowhere
from packrank.request import Int32, Pack


@dataclass(frozen=True)
class CausalSettings:
    """How a decoder is used.

    Attributes:
        head: what reads the last token: the classifier of the checkpoint, rows of its vocabulary
            (of "tokens" one score, of "labels" one each), a head at each of several layers
            ("layerwise"); or "modules", which pool tokens themselves. Or all of the vocabulary,
            which generates: see generative.py.
        true_token_id: of "tokens": whose logit is the score.
        false_token_id: of "tokens": whose logit is taken off it, or None.
        label_token_ids: of "labels": whose logits are the columns of a sequence's row.
        head_index: of "layerwise" models with a head a layer. "layer": each layer's own.
            "upstream": the i-th head for the i-th layer that is asked for, as FlagEmbedding's code
            of bge-reranker-v2.5-gemma2-lightweight has it.
        compress_ratio: of document tokens that become one; 1: none do.
        compress_layers: before which layers, counted from 0.
        tail: tokens after the document, which are kept.
    """

    head: Literal["classifier", "tokens", "labels", "layerwise", "modules", "vocabulary"] = (
        "classifier"
    )
    true_token_id: int | None = None
    false_token_id: int | None = None
    head_index: Literal["upstream", "layer"] = "layer"
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = ()
    tail: int = 0
    label_token_ids: tuple[int, ...] = ()


class CausalModel(StagedModel):
    """A packed decoder and its scoring heads, run from layer to layer."""

    prefix = "model."

    def __init__(
        self,
        config: ModelConfig,
        parameters: Parameters,
        settings: CausalSettings,
        head: PoolingHead | None = None,
    ) -> None:
        super().__init__(config, parameters, head=head or False)
        assert config.decoder is not None
        self.settings, self._options = settings, config.decoder
        hidden, options = config.hidden_size, config.decoder
        self._tokens = self._load_tokens(parameters)
        scale = torch.tensor(options.embedding_scale)
        self._embedding_scale = scale.to(self.dtype) if options.rounds_embedding_scale else scale
        rotary = rotary_table(options.rope, options.head_size, self.device)
        self._layers = [
            self._load_layer(parameters, index, rotary) for index in range(config.num_layers)
        ]
        self._norm = self._load_norm(parameters, "norm", hidden)
        self._heads: list[Callable[[Tensor], Tensor]] = [
            Linear(weight.to(self.device), deterministic=parameters.deterministic)
            for weight in self._load_heads(parameters)
        ]
        if head is not None:
            self._heads = [head]

    @property
    def num_labels(self) -> int:
        """Columns of the logits."""
        by_labels = self.settings.head == "labels"
        return len(self.settings.label_token_ids) if by_labels else self.config.num_labels

    def _load_tokens(self, parameters: Parameters) -> Tensor:
        name = f"{parameters.prefix}embed_tokens.weight"
        if self.settings.head in ("tokens", "labels", "vocabulary"):
            name = self._vocabulary(parameters, name)
        shape = (self.config.vocab_size, self.config.hidden_size)
        return parameters.weights.take(name, shape, self.dtype, self.device)

    def _load_norm(self, parameters: Parameters, name: str, size: int) -> RMSNorm:
        weight = parameters.vector(f"{name}.weight", size)
        return RMSNorm(weight + 1 if self._options.unit_offset else weight, self.config.norm_eps)

    def _load_layer(self, parameters: Parameters, index: int, rotary: RotaryTable) -> DecoderLayer:
        config, options = self.config, self._options
        hidden, inner, size = config.hidden_size, config.intermediate_size, options.head_size
        stem = f"layers.{index}."
        at = f"{stem}self_attn."
        fixed = parameters.deterministic

        def norm(name: str, size: int = hidden) -> RMSNorm:
            return self._load_norm(parameters, stem + name, size)

        def joined(rows: dict[str, int], bias: bool) -> tuple[Tensor, Tensor | None]:
            weight = torch.cat([parameters.matrix(name, n, hidden) for name, n in rows.items()])
            if not bias:
                return weight, None
            vectors = [parameters.vector(f"{name}.bias", n) for name, n in rows.items()]
            return weight, torch.cat(vectors)

        queries, keys = config.num_heads * size, options.num_key_heads * size
        qkv = {f"{at}q_proj": queries, f"{at}k_proj": keys, f"{at}v_proj": keys}
        up = {f"{stem}mlp.gate_proj": inner, f"{stem}mlp.up_proj": inner}
        second, outer = "post_attention_layernorm", options.outer_norms
        return DecoderLayer(
            attention_norm=norm("input_layernorm"),
            attention=CausalAttention(
                qkv=Projections(
                    *joined(qkv, options.qkv_bias),
                    queries,
                    whole=not options.head_norms,
                    deterministic=fixed,
                ),
                out=parameters.linear(f"{at}o_proj", queries, hidden, bias=options.out_bias),
                num_heads=config.num_heads,
                num_key_heads=options.num_key_heads,
                scale=options.attention_scale,
                rotary=rotary,
                causal=options.causal,
                window=options.windows[index],
                softcap=options.attention_softcap,
                q_norm=norm("self_attn.q_norm", size) if options.head_norms else None,
                k_norm=norm("self_attn.k_norm", size) if options.head_norms else None,
                deterministic=fixed,
            ),
            after_attention=norm(second) if outer else None,
            mlp_norm=norm("pre_feedforward_layernorm" if outer else second),
            mlp=MLP(
                Linear(
                    *joined(up, options.mlp_bias),
                    activation=config.activation,
                    gated=True,
                    deterministic=fixed,
                ),
                parameters.linear(f"{stem}mlp.down_proj", inner, hidden, bias=options.mlp_bias),
            ),
            after_mlp=norm("post_feedforward_layernorm") if outer else None,
            scale=options.residual_scale,
        )

    def _load_heads(self, parameters: Parameters) -> list[Tensor]:
        """[num_labels, hidden] float32 each; only rows that score are read."""
        weights, hidden = parameters.weights, self.config.hidden_size
        if self.settings.head == "modules":
            return []
        if self.settings.head == "classifier":
            return [weights.take("score.weight", (self.num_labels, hidden))]
        if self.settings.head == "layerwise":
            if self._options.one_exit_head:
                return [weights.take("lm_head.linear_head.weight", (1, hidden))]
            count = len(self.exit_layers)
            names = [f"lm_head.{place}.linear_head.weight" for place in range(count)]
            return [weights.take(name, (1, hidden)) for name in names]
        yes, no = self.settings.true_token_id, self.settings.false_token_id
        rows = [token for token in (yes, no) if token is not None]
        if self.settings.head == "labels":
            rows, no = [*self.settings.label_token_ids], None
        elif yes is None:
            rows = []
        if not rows:
            raise ModelError(f"{self.config.architecture} scores by a token, and none is named")
        name = self._vocabulary(parameters, "lm_head.weight")
        found = weights.take_rows(name, rows, (self.config.vocab_size, hidden))
        # One product of the difference is more exact than the difference of two; logits that are
        # capped are subtracted after that.
        capped = self._options.logit_softcap is not None
        return [found if no is None or capped else found[:1] - found[1:]]

    def _vocabulary(self, parameters: Parameters, name: str) -> str:
        """The matrix of a row a token that stands for one of this name.

        Of a tied pair a checkpoint may hold either; one that holds both means both.
        """
        weights, embedding = parameters.weights, f"{parameters.prefix}embed_tokens.weight"
        pair, tied = (embedding, "lm_head.weight"), self._options.tied
        if tied and any(map(weights.adapts, pair)) and not all(map(weights.replaces, pair)):
            raise ModelError(
                "the adapter changes one of embed_tokens and lm_head, which are one matrix, and "
                "peft gives other scores before it is merged than after; merge it into its base "
                "(merge_and_unload, save_pretrained) and pass that folder"
            )
        other = embedding if name != embedding else "lm_head.weight"
        if name in weights or other not in weights:
            return name
        if not tied:
            raise ModelError(
                f"the checkpoint has no {name}, and by config.json (tie_word_embeddings: false) "
                f"{other} does not stand for it; is a file missing?"
            )
        return other

    def scoring(self, pack: Pack) -> Program:
        """What the last head says, as a program."""
        layers = self.config.num_layers
        if self._reads_last:
            return self.exit_scoring(pack, (layers,))
        head = self._head
        if self.config.pooling == "all" and isinstance(head, PoolingHead):

            def pooled(state: State, there: dict[str, Tensor]) -> Tensor:
                return head.of_all(self._normed(self.advance(state, layers)), there["cu_seqlens"])

            return self._program(("logits",), pack, pooled)

        if self.config.pooling == "mean":

            def averaged(state: State, there: dict[str, Tensor]) -> Tensor:
                normed = self._normed(self.advance(state, layers))
                return self._read(mean_of_each(normed, there["cu_seqlens"]), 0)

            return self._program(("logits",), pack, averaged)

        def read(state: State, there: dict[str, Tensor]) -> Tensor:
            return self._logits_of(self.advance(state, layers), there["read"], 0)

        rows = {"read": Array(_last_but_padding(pack, self.config.pad_token_id), "sequence")}
        return self._program(("logits",), pack, read, rows)

    def exit_scoring(self, pack: Pack, stops: tuple[int, ...]) -> Program:
        """What the heads say after some numbers of layers, as a program."""
        return self._program(
            ("exits", stops), pack, lambda state, there: self._at_each(stops, state)
        )

    def spared(self, extent: Extent, stop: int) -> int:
        """Tokens for which the last of `stop` layers need not run: all but the last of each."""
        return extent.tokens - extent.sequences

    def _program(
        self,
        kind: tuple[object, ...],
        pack: Pack,
        score: Callable[[State, dict[str, Tensor]], Tensor],
        more: dict[str, Array] | None = None,
    ) -> Program:
        """`score` of the sequences before the first layer and the arrays, `more` among them."""
        arrays, plan = self._laid_out(pack)
        first = len(plan.prefix_of) - pack.num_sequences
        return Program(
            kind=kind,
            arrays=arrays | (more or {}),
            extent=plan.extent,
            forward=lambda there, extent: score(self._entered(plan, there, extent), there),
            own=slice(first, len(plan.prefix_of)),
            may_have_room=not plan.ahead,
        )

    @property
    def _reads_last(self) -> bool:
        """Whether a score is that of the last token.

        A classifier reads the last that is not padding; where attention is causal nothing that it
        reads sees what follows, so that is not there.
        """
        by_padding = self.settings.head == "classifier" and self.config.pad_token_id >= 0
        return self.config.pooling == "last" and (self._options.causal or not by_padding)

    def begin(self, pack: Pack) -> State:
        """The sequences before the first layer: their prefixes, if any, and then they, in order."""
        arrays, plan = self._laid_out(pack)
        entered = self._entered(plan, self._uploaded(arrays), plan.extent)
        return replace(entered, cu_seqlens=plan.cu_seqlens, prefix_of=plan.prefix_of)

    def _laid_out(self, pack: Pack) -> tuple[dict[str, Array], Plan]:
        """Where the sequences lie, every prefix once, and with it the tokens for the device."""
        if not self.config.shares_prefixes:
            pack = replace(pack, queries=None, shared=None)
        shared = share_prefixes(pack)
        plan = self._plan(shared.cu_seqlens, shared.prefix_of, 0)
        return {"token_ids": Array(shared.token_ids, "token")} | plan.arrays(), plan

    def _entered(self, plan: Plan, there: dict[str, Tensor], extent: Extent) -> State:
        x = self._embedded(there["token_ids"])
        somewhere = nowhere(extent.sequences)
        return State(x, None, somewhere, somewhere[1:], 0, spans=plan.on_device(there, extent))

    def _embedded(self, token_ids: Tensor) -> Tensor:
        """[T] int32 -> [T, hidden], as the first layer reads it."""
        x = F.embedding(token_ids, self._tokens)
        return x if self._options.embedding_scale == 1.0 else x * self._embedding_scale

    def advance(self, state: State, stop: int, *, last_only: bool = False) -> State:
        """The sequences after `stop` layers; with `last_only` of each its last token alone."""
        x, update, cu_seqlens = state.x, state.update, state.cu_seqlens
        course, computed, spared = self._course(state), state.computed, 0
        for index in range(state.num_layers, stop):
            if index in course.ahead:
                compression = course.ahead[index]
                x, update = self._compressed(x, update, compression), None
                cu_seqlens = compression.cu_seqlens
                course = Course(compression.spans, course.ahead)
            ends = last_only and index == stop - 1
            spared = len(x)
            x, update = self._layers[index](x, update, course.spans, last_only=ends)
            computed += len(x)
            spared -= len(x)
        after = None if last_only else course
        if last_only:
            cu_seqlens = np.arange(len(cu_seqlens), dtype=np.int32)
        return State(
            x, update, cu_seqlens, state.prefix_of, stop, computed, spared, after, last_only
        )

    def exit_logits(self, state: State, place: int) -> Tensor:
        """[M, num_labels] float32, what the head says of each sequence's last token.

        `place` picks the head where the settings say so: see `CausalSettings.head_index`.
        """
        assert self._reads_last
        rows = None if state.has_one_row_each else self._course(state).spans.last
        return self._logits_of(state, rows, place)

    def _logits_of(self, state: State, rows: Tensor | None, place: int) -> Tensor:
        """[M, num_labels] float32, of M rows of the hidden states, or of all."""
        if self.settings.head == "layerwise" and self.settings.head_index == "layer":
            place = self.exit_layers.index(state.num_layers)
        return self._read(self._normed(state, rows), place)

    def _read(self, normed: Tensor, place: int) -> Tensor:
        """[M, num_labels] float32, what a head says of M final hidden states."""
        logits = self._heads[place if len(self._heads) > 1 else 0](normed)
        cap = self._options.logit_softcap
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        if logits.shape[1] > self.num_labels:
            logits = logits[:, :1] - logits[:, 1:]
        return logits / self._options.temperature if self._options.temperature != 1 else logits

    def _normed(self, state: State, rows: Tensor | None = None) -> Tensor:
        """[M, hidden] float32: the last norm of some rows of the hidden states, or of all."""

        def chosen(x: Tensor) -> Tensor:
            return (x if rows is None else x.index_select(0, rows)).float()

        if state.update is None:
            return self._norm(chosen(state.x))[0]
        update, x = chosen(state.update), chosen(state.x)
        return self._norm(update, x, self._options.residual_scale)[0]

    def _course(self, state: State) -> Course:
        """Where a state's sequences lie from here on; one upload, unless the device knows it."""
        if state.spans is not None:
            known: Course = state.spans
            return known
        plan = self._plan(state.cu_seqlens, state.prefix_of, state.num_layers)
        return plan.on_device(self._uploaded(plan.arrays()), plan.extent)

    def _plan(self, cu_seqlens: Int32, prefix_of: Int32, num_layers: int) -> Plan:
        """Where sequences lie that have run some layers, there and in those that follow."""
        ratio, tail = self.settings.compress_ratio, self.settings.tail
        first = max(num_layers, 1)  # before the first layer of all there is nothing to compress
        layers = {n for n in self.settings.compress_layers if n >= first and ratio > 1}
        return Plan.of(cu_seqlens, prefix_of, layers, ratio, tail)

    def _compressed(self, x: Tensor, update: Tensor | None, to: Compression) -> Tensor:
        """[runs, hidden], the mean of each run of tokens."""
        x = x.float()
        if update is not None:
            x = (x + self._options.residual_scale * update.float()).to(self.dtype).float()
        mean = torch.segment_reduce(x, "mean", lengths=to.sizes, axis=0, unsafe=True)
        return mean.to(self.dtype)

    def _load_head(self, parameters: Parameters) -> Head:
        raise ModelError(f"{self.config.architecture} is no encoder")

    def _encode(self, inputs: Inputs) -> Tensor:
        raise ModelError(f"{self.config.architecture} is a decoder; it gives scores, not vectors")


def _last_but_padding(pack: Pack, pad_token_id: int) -> Int32:
    """[N] int32: the row of each sequence's last token that is not padding; else of its first."""
    starts, rows = pack.cu_seqlens[:-1], np.arange(len(pack.token_ids), dtype=np.int32)
    latest = np.maximum.accumulate(np.where(pack.token_ids != pad_token_id, rows, -1))
    return np.maximum(latest[pack.cu_seqlens[1:] - 1], starts).astype(np.int32)
