"""Sequences to packs to logits or token vectors, in the order they came."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packrank.checkpoint.config import ModelConfig
from packrank.errors import InputError
from packrank.models import Model
from packrank.models.staged import StagedModel
from packrank.request import Int32, Pack, Sequence
from packrank.runtime.device import suppress_out_of_memory
from packrank.runtime.graphs import PATIENCE, Graphs, can_capture
from packrank.runtime.scheduler import packed_tokens, plan
from packrank.runtime.transfer import Fetch, PackUploads, fetch

# Most tokens of a pack on a CPU where the caller does not say: some 20 pairs of usual length, which
# is work enough to keep a processor's cores busy, and activations of a few tens of MB.
CPU_BUDGET_TOKENS = 4096

_T = TypeVar("_T")
# Some sequences: end to end, or one by one.
Sequences = Pack | list[Sequence]


def default_budget(model: Model) -> int:
    """Most tokens of a pack where the caller does not say.

    On a CUDA device as many as let the widest activation stay in its second-level cache, between
    one and four times the CPU's: fewer would leave multiprocessors without work. By arithmetic,
    not by measurement.
    """
    if model.device.type != "cuda":
        return CPU_BUDGET_TOKENS
    if model.config.decoder is not None:  # large packs hide what launches cost
        return 4 * CPU_BUDGET_TOKENS
    cache: int = torch.cuda.get_device_properties(model.device).L2_cache_size
    widest = max(model.config.intermediate_size, 3 * model.config.hidden_size)
    fitting = cache // (widest * model.dtype.itemsize)
    return min(max(fitting // 1024 * 1024, CPU_BUDGET_TOKENS), 4 * CPU_BUDGET_TOKENS)


class Runner:
    """A model on its device. Threads may share it.

    Args:
        model: what runs.
        budget_tokens: most tokens of one pack; peak memory grows with it, not with the input.
            None leaves it to `default_budget`.

    Attributes:
        budget_tokens: in force. Halved whenever the device runs out of memory.
        graphs: what runs the model's programs in graphs; None where nothing does.
    """

    def __init__(self, model: Model, budget_tokens: int | None = None) -> None:
        self.model = model
        self.budget_tokens = budget_tokens or default_budget(model)
        model.upload = PackUploads(model.device)
        self.graphs = Graphs(model) if can_capture(model) else None

    def logits(self, sequences: Sequences) -> NDArray[np.float32]:
        """[N, num_labels] float32, one row a sequence, before any activation.

        Raises:
            InputError: a sequence that the model cannot take; the message gives its place.
        """
        return self.submit(sequences).result()

    def submit(
        self, sequences: Sequences, cutoff_layers: tuple[int, ...] | None = None
    ) -> "Pending":
        """Start scoring; on a CUDA device the call returns while the last packs still run.

        Args:
            sequences: N of them.
            cutoff_layers: ascending, among the model's exit layers; its logits after each of
                these numbers of layers, side by side. None: after all.

        Raises:
            InputError: a sequence that the model cannot take; the message gives its place.
        """
        columns = self.model.num_labels * len(cutoff_layers or (0,))
        pending = Pending(len(sequences), columns)
        for indices, started in self._run(
            sequences, lambda pack, _: self._start(pack, cutoff_layers)
        ):
            if isinstance(started, str):
                pending.failures[int(indices[0])] = started
            else:
                pending.packs.append((indices, started))
        return pending

    def warm_up(self, max_seqlens: list[int]) -> None:
        """Compile and capture ahead what full packs of sequences of these lengths need.

        On a CPU there is nothing to do.
        """
        if self.model.device.type == "cpu" and self.graphs is None:
            return
        # Largest first: the graphs of the others fit into the memory of the largest.
        runs = 1 if self.graphs is None else PATIENCE + 1
        for length in sorted(max_seqlens, reverse=True):
            count = max(self.budget_tokens // length, 1)
            ids = np.zeros(count * length, dtype=np.int32)
            pack = Pack(ids, ids, np.arange(count + 1, dtype=np.int32) * np.int32(length))
            for _ in range(runs):
                self.submit(pack).result()

    def _start(self, pack: Pack, cutoff_layers: tuple[int, ...] | None) -> Fetch:
        model = self.model
        if cutoff_layers is None:
            if self.graphs is None:
                return fetch(model.logits(pack))
            return self.graphs.submit(model.scoring(pack))
        assert isinstance(model, StagedModel)
        if self.graphs is None:
            return fetch(model.logits_at(pack, cutoff_layers))
        return self.graphs.submit(model.exit_scoring(pack, cutoff_layers))

    def hidden_states(self, sequences: Sequences, num_keys: Int32 | None = None) -> list[Tensor]:
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
        self,
        sequences: Sequences,
        num_keys: Int32 | None = None,
        wanted: Callable[[Pack], NDArray[np.bool_]] | None = None,
        then: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Int32]]:
        """The same a pack at a time, so that only one pack's states need be alive.

        Args:
            sequences: N of them.
            num_keys: [N]; see `Model.hidden_states`.
            wanted: pack -> [T], of which of its tokens the states are wanted; None: of all.
            then: [R, hidden] -> [R, D], row by row: what is made of states where they are; the same
                object each time. None: nothing.

        Yields:
            Which sequences these are, the states [R, hidden] that are wanted of them, or what was
            made of those, end to end, and where those of each start, as cu_seqlens has it.

        Raises:
            InputError: a sequence that the model cannot take; the message gives its place.
        """

        def states(pack: Pack, indices: NDArray[np.int64]) -> tuple[Tensor, Int32]:
            keys = None if num_keys is None else num_keys[indices]
            rows, ends = None, pack.cu_seqlens
            if wanted is not None:
                chosen = wanted(pack)
                rows = np.flatnonzero(chosen).astype(np.int32)
                ends = np.append(0, np.cumsum(chosen)).astype(np.int32)[ends]
            if self.graphs is None:
                found = self.model.hidden_states(pack, keys, rows)
                return found if then is None else then(found), ends
            program = self.model.encoding(pack, keys, rows)
            return self.graphs.run(program if then is None else program.then(then)), ends

        for indices, found in self._run(sequences, states):
            if isinstance(found, str):
                raise InputError(f"sequence {indices[0]}: {found}")
            yield indices, *found
            del found  # or its states would be alive while the next pack is computed

    def _run(
        self, sequences: Sequences, start: Callable[[Pack, NDArray[np.int64]], _T]
    ) -> Iterator[tuple[NDArray[np.int64], _T | str]]:
        """start(pack, indices) for each pack of the plan, or why a sequence does not fit.

        Where the device runs out of memory, what is left is planned anew under half the budget.
        """
        whole = sequences if isinstance(sequences, Pack) else Pack.of(sequences)
        check_sequences(whole, self.model.config)
        lengths = whole.lengths
        waiting = self._plan(whole)[::-1]
        tried: set[int] = set()
        while waiting:
            indices = waiting.pop()
            result: _T | str | None = None
            # Room is made after the except clause: until then the error keeps what it met alive.
            with suppress_out_of_memory():
                result = start(whole.take(indices), indices)
            if result is None:
                if self.graphs is not None:
                    self.graphs.clear()
                if len(indices) > 1:
                    pack = whole.take(indices)
                    used = packed_tokens(pack.lengths, pack.queries, pack.shared)
                    self.budget_tokens = min(self.budget_tokens, used // 2)
                    left = np.concatenate([indices, *waiting[::-1]])
                    waiting = [left[places] for places in self._plan(whole.take(left))][::-1]
                    continue
                if int(indices[0]) not in tried:  # graphs may have held the room that it needs
                    tried.add(int(indices[0]))
                    waiting.append(indices)
                    continue
                result = (
                    f"its {lengths[indices[0]]} tokens do not fit in the memory of "
                    f"{self.model.device}"
                )
            yield indices, result
            del result

    def _plan(self, whole: Pack) -> list[NDArray[np.int64]]:
        return plan(whole.lengths, self.budget_tokens, whole.queries, whole.shared)


@dataclass
class Pending:
    """Logits that a device may still be computing.

    Attributes:
        num_sequences: N.
        num_labels: columns of the logits.
        packs: which sequences, and what waits for their logits.
        failures: the other sequences, each with the reason.
    """

    num_sequences: int
    num_labels: int
    packs: list[tuple[NDArray[np.int64], Fetch]] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)

    def result(self) -> NDArray[np.float32]:
        """[N, num_labels] float32, NaN for sequences that failed."""
        out = np.full((self.num_sequences, self.num_labels), np.nan, dtype=np.float32)
        for indices, wait in self.packs:
            out[indices] = wait()
        return out


def check_sequences(whole: Pack, config: ModelConfig) -> None:
    """Raise InputError unless a model takes these sequences; the message gives the place."""
    for i in np.flatnonzero((whole.lengths < 1) | (whole.lengths > config.max_length)):
        raise InputError(
            f"sequence {i} has {whole.lengths[i]} tokens, the model takes 1 to {config.max_length}"
        )
    _check_ids("token id", whole.token_ids, config.vocab_size)
    if config.type_vocab_size:
        _check_ids("token type", whole.token_types, config.type_vocab_size)


def _check_ids(name: str, ids: Int32, size: int) -> None:
    low, high = ids.min(initial=0), ids.max(initial=0)
    if low < 0 or high >= size:
        raise InputError(
            f"{name} {low if low < 0 else high} is not among the model's {size}; "
            "is the tokenizer another model's?"
        )
