"""Sequences to packs to logits or token vectors, in the order they came."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from packrank.errors import InputError
from packrank.models import Model
from packrank.request import Int32, Pack, Sequence
from packrank.scheduler import plan

# Most tokens of a pack where the caller does not say: some 20 pairs of usual length, which is
# work enough to keep a processor's cores busy, and activations of a few tens of MB.
DEFAULT_BUDGET_TOKENS = 4096


class Runner:
    """A model on its device. Holds no state between calls, so threads may share it.

    Args:
        model: what runs.
        budget_tokens: most tokens of one pack; peak memory grows with it, not with the input.
    """

    def __init__(self, model: Model, budget_tokens: int) -> None:
        self.model = model
        self.budget_tokens = budget_tokens

    def logits(self, sequences: list[Sequence]) -> NDArray[np.float32]:
        """[N, num_labels] float32, one row a sequence, before any activation.

        Raises:
            InputError: a sequence that the model cannot take; the message gives its place.
        """
        out = np.empty((len(sequences), self.model.num_labels), dtype=np.float32)
        for indices in self._plan(sequences):
            out[indices] = self.model.logits(self._pack(sequences, indices)).cpu().numpy()
        return out

    def hidden_states(
        self, sequences: list[Sequence], num_keys: Int32 | None = None
    ) -> list[Tensor]:
        """One [L, hidden] tensor a sequence, in the model's dtype and on its device.

        Args:
            sequences: N of them.
            num_keys: [N]; see `Model.hidden_states`.

        Raises:
            InputError: a sequence that the model cannot take; the message gives its place.
        """
        out: dict[int, Tensor] = {}
        for indices, states, cu_seqlens in self.packs_of_hidden_states(sequences, num_keys):
            bounds = pairwise(cu_seqlens.tolist())
            for i, (start, stop) in zip(indices.tolist(), bounds, strict=True):
                out[i] = states[start:stop]
        return [out[i] for i in range(len(sequences))]

    def packs_of_hidden_states(
        self, sequences: list[Sequence], num_keys: Int32 | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Int32]]:
        """The same a pack at a time, so that only one pack's states need be alive.

        Args:
            sequences: N of them.
            num_keys: [N]; see `Model.hidden_states`.

        Yields:
            Which sequences these are, their states [T, hidden] end to end, and cu_seqlens.

        Raises:
            InputError: a sequence that the model cannot take; the message gives its place.
        """
        for indices in self._plan(sequences):
            pack = self._pack(sequences, indices)
            keys = None if num_keys is None else num_keys[indices]
            yield indices, self.model.hidden_states(pack, keys), pack.cu_seqlens

    def _plan(self, sequences: list[Sequence]) -> list[NDArray[np.int64]]:
        longest = self.model.config.max_length
        lengths = [len(sequence.token_ids) for sequence in sequences]
        for i, length in enumerate(lengths):
            if not 1 <= length <= longest:
                raise InputError(
                    f"sequence {i} has {length} tokens, the model takes 1 to {longest}"
                )
        return plan(lengths, self.budget_tokens)

    def _pack(self, sequences: list[Sequence], indices: NDArray[np.int64]) -> Pack:
        chosen = [sequences[i] for i in indices]
        lengths = [len(sequence.token_ids) for sequence in chosen]
        token_ids = np.concatenate([sequence.token_ids for sequence in chosen])
        token_types = np.concatenate([sequence.token_types for sequence in chosen])
        config = self.model.config
        _check_ids("token id", token_ids, config.vocab_size)
        if config.type_vocab_size:
            _check_ids("token type", token_types, config.type_vocab_size)
        cu_seqlens = np.append(np.int32(0), np.cumsum(lengths, dtype=np.int32))
        return Pack(token_ids=token_ids, token_types=token_types, cu_seqlens=cu_seqlens)


def _check_ids(name: str, ids: Int32, size: int) -> None:
    low, high = ids.min(), ids.max()
    if low < 0 or high >= size:
        raise InputError(
            f"{name} {low if low < 0 else high} is not among the model's {size}; "
            "is the tokenizer another model's?"
        )
