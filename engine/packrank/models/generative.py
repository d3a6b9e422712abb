"""Decoders that generate: steps of new tokens, with what came before them kept in pages."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from packrank.checkpoint.config import ModelConfig
from packrank.errors import ModelError
from packrank.models.base import Parameters, PoolingHead
from packrank.models.causal import CausalModel, CausalSettings
from packrank.models.decoder_layers import CausalSpans
from packrank.models.layers import Linear
from packrank.models.staged import State, nowhere
from packrank.request import Int32
from packrank_kernels import Pages


@dataclass(frozen=True)
class Step:
    """New tokens of some sequences, in one pack.

    Attributes:
        token_ids: [T] int32, end to end.
        cu_seqlens: [N + 1] int32. Where each sequence's new tokens start, then T; each has one.
        lengths: [N] int32. Tokens of each sequence, its new ones among them.
        table: [N, M] int32. Which pages are each sequence's, in order; it has room for `lengths`.
        asked: [A] int32. After which sequences' tokens the next is asked for.
    """

    token_ids: Int32
    cu_seqlens: Int32
    lengths: Int32
    table: Int32
    asked: Int32


@dataclass(frozen=True)
class Cache:
    """Keys and values of every layer, in pages of one size.

    Attributes:
        keys: a layer: [P, S, Hk, D] in the model's dtype; a head's of a page lie side by side.
        values: likewise.
    """

    keys: list[Tensor]
    values: list[Tensor]


class GenerativeModel(CausalModel):
    """A decoder with its whole vocabulary for a head: `logits` are of the token that comes next.

    The matrix stays in the model's dtype; its sums are float32 and not rounded.
    """

    def __init__(
        self,
        config: ModelConfig,
        parameters: Parameters,
        settings: CausalSettings,
        head: PoolingHead | None = None,
    ) -> None:
        super().__init__(config, parameters, settings, head)
        if not self._options.causal:
            raise ModelError(f"{config.architecture} attends both ways here, and cannot generate")
        shape = (config.vocab_size, config.hidden_size)
        embedding, name = (
            self._vocabulary(parameters, one)
            for one in (f"{parameters.prefix}embed_tokens.weight", "lm_head.weight")
        )
        weight = self._tokens
        if name != embedding:
            weight = parameters.weights.take(name, shape, self.dtype, self.device)
        product = Linear(weight, wide=True, deterministic=parameters.deterministic)
        self._heads = [lambda normed: product(normed.to(self.dtype))]

    @property
    def num_labels(self) -> int:
        """Tokens of the vocabulary."""
        return self.config.vocab_size

    def _load_heads(self, parameters: Parameters) -> list[Tensor]:
        return []

    def page_bytes(self, size: int) -> int:
        """What a page of so many tokens takes, in all layers together."""
        options = self._options
        numbers = 2 * size * options.num_key_heads * options.head_size
        return self.config.num_layers * numbers * self.dtype.itemsize

    def make_cache(self, count: int, size: int) -> Cache:
        """So many pages of so many tokens; a system gives memory as they are first written."""
        options, layers = self._options, self.config.num_layers
        shape = (layers, 2, count, options.num_key_heads, size, options.head_size)
        pages = torch.empty(shape, dtype=self.dtype, device=self.device).transpose(3, 4)
        return Cache(list(pages[:, 0]), list(pages[:, 1]))

    def next_logits(self, step: Step, cache: Cache) -> Tensor:
        """[A, vocabulary] float32, of what follows those that ask; the step is kept in the cache.

        On a CPU the bits are those of `logits` for the whole sequences.
        """
        count, new = len(step.lengths), np.diff(step.cu_seqlens)
        there = self.upload(
            {
                "token_ids": step.token_ids,
                "cu_seqlens": step.cu_seqlens,
                "cu_last": np.arange(count + 1, dtype=np.int32),
                "last": step.cu_seqlens[1:] - np.int32(1),
                "lengths": step.lengths,
                "table": step.table.ravel(),
                "asked": step.asked,
            }
        )
        spans = CausalSpans(
            cu_seqlens=there["cu_seqlens"],
            max_seqlen_q=int(new.max()),
            max_seqlen_k=int(step.lengths.max()),
            prefix_of=None,
            last=there["last"],
            cu_last=there["cu_last"],
        )
        table = there["table"].view(step.table.shape)
        x, update = self._embedded(there["token_ids"]), None
        for index, layer in enumerate(self._layers):
            pages = Pages(cache.keys[index], cache.values[index], table, there["lengths"])
            ends = index == len(self._layers) - 1 and len(x) > count
            x, update = layer(x, update, replace(spans, pages=pages), last_only=ends)
        where = nowhere(count)
        state = State(x, update, where, where[1:], len(self._layers), has_one_row_each=True)
        return self._read(self._normed(state, there["asked"]), 0)
