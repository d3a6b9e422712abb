"""Decoders that answer at marked tokens: their hidden states there, projected, are vectors."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from packrank.checkpoint.config import ModelConfig
from packrank.errors import ModelError
from packrank.models.base import Parameters
from packrank.models.causal import CausalModel, CausalSettings
from packrank.models.layers import Linear
from packrank.models.prefixes import share_prefixes
from packrank.models.program import Array, Program
from packrank.request import Int32, Pack

_PROJECTOR = ("projector.0", "projector.2")


class MarkedModel(CausalModel):
    """jina-reranker-v3: a decoder, and two layers that make vectors of its hidden states.

    Attributes:
        projector: of those.
    """

    def __init__(self, config: ModelConfig, parameters: Parameters) -> None:
        super().__init__(config, parameters, CausalSettings(head="modules"))
        self.projector = Projector(config.hidden_size, parameters.of_head)

    def encoding(
        self, pack: Pack, num_keys: Int32 | None = None, rows: Int32 | None = None
    ) -> Program:
        """The last norm of hidden states, [R, hidden] float32, as a program.

        Args:
            pack: N sequences.
            num_keys: None: every token is attended to.
            rows: [R] int32, rising, of the pack's T tokens those that are wanted, none of them in
                what sequences share; None: all, of sequences that share nothing.
        """
        assert num_keys is None
        places = np.arange(len(pack.token_ids), dtype=np.int32) if rows is None else rows
        if self.config.shares_prefixes:
            places = _laid_out(places, pack)
        found = self._program(
            ("states",),
            pack,
            lambda state, there: self._normed(
                self.advance(state, self.config.num_layers), there["rows"]
            ),
            {"rows": Array(places, "token")},
        )
        return replace(found, own=slice(len(places)))


class Projector:
    """[R, hidden] -> [R, D]: relu(x W0) W2, in float32.

    Args:
        hidden: size of what it reads; the other sizes are those of its weights.
        parameters: the checkpoint, full names.
    """

    def __init__(self, hidden: int, parameters: Parameters) -> None:
        headers = parameters.weights.headers
        for name in _PROJECTOR:
            if f"{name}.weight" not in headers:
                raise ModelError(f"the checkpoint has no {name}.weight; is a file missing?")
        for name in headers:
            if name.startswith("projector.") and name.removesuffix(".weight") not in _PROJECTOR:
                raise ModelError(f"the checkpoint has {name}, for which the model has no place")
        inner, self.size = (headers[f"{name}.weight"].shape[0] for name in _PROJECTOR)
        first, second = _PROJECTOR
        self._first: Linear = parameters.linear(first, hidden, inner, bias=False, activation="relu")
        self._second: Linear = parameters.linear(second, inner, self.size, bias=False)

    def __call__(self, states: Tensor) -> Tensor:
        """[R, hidden] float32 -> [R, D] float32."""
        return self._second(self._first(states))


def _laid_out(rows: Int32, pack: Pack) -> Int32:
    """Where tokens of a pack lie once what its sequences share stands there once."""
    shared = share_prefixes(pack)
    first = len(shared.prefix_of) - pack.num_sequences
    owner = np.searchsorted(pack.cu_seqlens, rows, side="right") - 1
    offsets = rows - pack.cu_seqlens[owner]
    if pack.shared is not None:
        offsets = offsets - pack.shared[owner]
    return (shared.cu_seqlens[first + owner] + offsets).astype(np.int32)
