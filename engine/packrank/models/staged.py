"""Models with heads at several layers: run from one to the next, with fewer sequences each time."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packrank.models.base import Model
from packrank.models.program import Extent, Program
from packrank.request import Int32, Pack


@dataclass(frozen=True, eq=False)
class State:
    """Sequences on their way through the layers.

    Attributes:
        x: [T, hidden], what the last layer gave; what is still to be added to it is in `update`.
        update: [T, hidden], or None where nothing is.
        cu_seqlens: [M + 1] int32, on the host; see `nowhere`.
        prefix_of: [M] int32, on the host. Which sequence comes before each, -1: none.
        num_layers: layers run.
        computed: token-layers since `begin` or `gather`.
        spared: token-layers that a last layer had no need of.
        spans: where the sequences lie, on the device and as the model's layers read it; None until
            a layer asks for it, as after `gather`.
        has_one_row_each: whether of each sequence one token is left.
    """

    x: Tensor
    update: Tensor | None
    cu_seqlens: Int32
    prefix_of: Int32
    num_layers: int
    computed: int = 0
    spared: int = 0
    spans: Any = None
    has_one_row_each: bool = False


def nowhere(sequences: int) -> Int32:
    """In place of cu_seqlens within a program, where only a device knows them: -1 throughout."""
    return np.full(sequences + 1, -1, dtype=np.int32)


class StagedModel(Model):
    """A model that can stop after some of its layers, and go on."""

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """After how many layers there is a head, ascending; all layers come last."""
        return self.config.exit_layers

    @abstractmethod
    def begin(self, pack: Pack) -> State:
        """The sequences before the first layer: their prefixes, if any, and then they, in order."""

    @abstractmethod
    def advance(self, state: State, stop: int, *, last_only: bool = False) -> State:
        """The sequences after `stop` layers.

        Args:
            state: after fewer.
            stop: how many.
            last_only: nothing is wanted but logits there: such a state goes no further.
        """

    @abstractmethod
    def exit_logits(self, state: State, place: int) -> Tensor:
        """[M, num_labels] float32, what the head says of each sequence.

        Args:
            state: after one of `exit_layers`.
            place: how many other exits have been asked for before this one.
        """

    @abstractmethod
    def spared(self, extent: Extent, stop: int) -> int:
        """Tokens for which the last of `stop` layers need not run, if logits there are all.

        Args:
            extent: of a pack.
            stop: how many layers.
        """

    def logits_at(self, pack: Pack, stops: tuple[int, ...]) -> Tensor:
        """[N, C * num_labels] float32, what the heads say after each of C numbers of layers.

        Args:
            pack: N sequences.
            stops: ascending, among `exit_layers`.
        """
        return self.run(self.exit_scoring(pack, stops))

    @abstractmethod
    def exit_scoring(self, pack: Pack, stops: tuple[int, ...]) -> Program:
        """`logits_at` as a program."""

    def _at_each(self, stops: tuple[int, ...], state: State) -> Tensor:
        """[M, C * num_labels] float32, what the heads say on the way from a state to the last."""
        found = []
        for place, stop in enumerate(stops):
            state = self.advance(state, stop, last_only=stop == stops[-1])
            found.append(self.exit_logits(state, place))
        return torch.cat(found, dim=1)

    def gather(self, sequences: list[tuple[State, int]], prefix_of: Int32) -> State:
        """Some sequences of states at one layer as a state of their own, without the others.

        Args:
            sequences: in their new order.
            prefix_of: [M] int32, of the new state.
        """
        # One copy of whole rows; a kernel that finds them on the device would gain nothing here,
        # where the host knows every place.
        rows = [slice(*state.cu_seqlens[at : at + 2].tolist()) for state, at in sequences]
        sizes = [span.stop - span.start for span in rows]
        pieces = list(zip((state for state, _ in sequences), rows, strict=True))
        updates = [state.update[span] for state, span in pieces if state.update is not None]
        return State(
            x=torch.cat([state.x[span] for state, span in pieces]),
            update=torch.cat(updates) if updates else None,
            cu_seqlens=np.append(0, np.cumsum(sizes)).astype(np.int32),
            prefix_of=prefix_of,
            num_layers=sequences[0][0].num_layers,
        )
