"""What every architecture offers the runner, and how its weights are read."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from packrank.checkpoint.config import ModelConfig
from packrank.checkpoint.weights import Weights
from packrank.errors import ModelError
from packrank.models.layers import Head, LayerNorm, Linear, Spans, key_arrays
from packrank.models.program import Array, Extent, Program
from packrank.request import Int32, Pack

# Arrays on the host, by name -> the same on a device: once a pack, however many they are.
Upload = Callable[[dict[str, Int32]], dict[str, Tensor]]


@dataclass(frozen=True)
class Parameters:
    """The weights of a checkpoint as layers take them.

    Attributes:
        weights: the checkpoint.
        prefix: before every name asked for.
        device: where tensors go.
        dtype: of matrices and tables; vectors are float32.
        deterministic: what a layer makes of a row must not depend on the other rows. Kernels for
            the CPU always promise it.
    """

    weights: Weights
    prefix: str
    device: torch.device
    dtype: torch.dtype
    deterministic: bool = False

    @property
    def of_head(self) -> "Parameters":
        """The same checkpoint for a scoring head: full names, float32."""
        return replace(self, prefix="", dtype=torch.float32)

    def matrix(self, name: str, rows: int, columns: int) -> Tensor:
        """NAME.weight, [rows, columns] in `dtype`."""
        full_name = f"{self.prefix}{name}.weight"
        return self.weights.take(full_name, (rows, columns), self.dtype, self.device)

    def vector(self, name: str, size: int) -> Tensor:
        """[size] float32."""
        return self.weights.take(f"{self.prefix}{name}", (size,), device=self.device)

    def linear(
        self,
        name: str,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        activation: str | None = None,
        gated: bool = False,
    ) -> Linear:
        """A linear layer; gated, its weight has twice as many rows as `outputs`."""
        rows = 2 * outputs if gated else outputs
        return Linear(
            *self._affine(name, inputs, rows, bias),
            activation=activation,
            gated=gated,
            deterministic=self.deterministic,
        )

    def head(
        self,
        dense: str,
        size: int,
        activation: str | None,
        out: str,
        num_labels: int,
        *,
        bias: bool = True,
        norm: LayerNorm | None = None,
    ) -> Head:
        """out(norm(activation(dense(x)))), the names being those of two linear layers."""
        return Head(
            self._affine(dense, size, size, bias),
            activation,
            norm,
            self._affine(out, size, num_labels, True),
        )

    def _affine(
        self, name: str, inputs: int, rows: int, bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        weight = self.matrix(name, rows, inputs)
        return weight, self.vector(f"{name}.bias", rows) if bias else None

    def norm(self, name: str, size: int, eps: float, *, bias: bool = True) -> LayerNorm:
        """A LayerNorm."""
        offset = self.vector(f"{name}.bias", size) if bias else None
        return LayerNorm(self.vector(f"{name}.weight", size), offset, eps)


class PoolingHead(ABC):
    """A scoring head that pools hidden states itself."""

    @abstractmethod
    def __call__(self, hidden: Tensor) -> Tensor:
        """[N, hidden] -> [N, labels] float32, of the hidden states that pooling would choose."""

    @abstractmethod
    def of_all(self, hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
        """[T, hidden] of a pack -> [N, labels] float32.

        Sequences may fill less than T; of empty ones the result means nothing.
        """


@dataclass(frozen=True)
class Inputs:
    """A pack on a device, as a model reads it.

    Attributes:
        token_ids: [T] int32.
        positions: [T] int32, or None where a model has no position table.
        token_types: [T] int32, or None where a model has no table of them.
        spans: where its sequences lie.
        rows: [R] int32, of which tokens the hidden states are wanted; None: of all.
    """

    token_ids: Tensor
    positions: Tensor | None
    token_types: Tensor | None
    spans: Spans
    rows: Tensor | None = None

    @classmethod
    def of(cls, there: dict[str, Tensor], extent: Extent) -> "Inputs":
        """Inputs from the arrays of a program, on the device."""
        spans = Spans.of(there["cu_seqlens"], extent.tokens, extent.max_seqlen)
        if "key_rows" in there:
            spans = spans.with_keys(there["key_rows"], there["cu_seqlens_k"])
        return cls(
            token_ids=there["token_ids"],
            positions=there.get("positions"),
            token_types=there.get("token_types"),
            spans=spans,
            rows=there.get("rows"),
        )


class Model(ABC):
    """A packed encoder, with or without a scoring head. Holds no state between calls.

    Attributes:
        config: of the checkpoint.
        device: where weights are and packs go.
        dtype: of weights and hidden states.
        prefix: before the encoder's names in a checkpoint that has more than the encoder.
        prefixes: others that it may be.
        unseen_tokens: why tokens that are not attended to have no vectors; None: they have.
        upload: takes the int32 arrays of a pack to `device`, called once a pack; a runner brings
            one that does not wait for the device. Nothing else in a forward copies from the host
            or waits: on a CUDA device it would wait for all that is still computed there.
    """

    prefix: ClassVar[str]
    prefixes: ClassVar[tuple[str, ...]] = ()
    unseen_tokens: ClassVar[str | None] = None

    def __init__(
        self, config: ModelConfig, parameters: Parameters, *, head: bool | PoolingHead
    ) -> None:
        self.config = config
        self.device = parameters.device
        self.dtype = parameters.dtype
        self.upload: Upload = partial(_copied, self.device)
        self._head: Head | PoolingHead | None = None
        if isinstance(head, PoolingHead):
            self._head = head
        elif head:
            self._head = self._load_head(parameters.of_head)

    @property
    def num_labels(self) -> int:
        """Columns of the logits."""
        return self.config.num_labels

    @property
    def hidden_size(self) -> int:
        """Columns of the hidden states."""
        return self.config.hidden_size

    @property
    def _first_token_only(self) -> bool:
        """Whether the last layer computes anything but keys and values for first tokens alone."""
        return self._head is not None and self.config.pooling == "cls"

    def arrays(self, pack: Pack) -> dict[str, Array]:
        """What `Inputs` holds of each token, by name, as far as this model reads it; [T] each."""
        return {"token_ids": Array(pack.token_ids, "token")}

    def run(self, program: Program) -> Tensor:
        """What a program of this model gives for its pack; on a CUDA device without waiting."""
        return program.forward(self._uploaded(program.arrays), program.extent)[program.own]

    def inputs(self, pack: Pack) -> Inputs:
        """A pack on the model's device."""
        return Inputs.of(self._uploaded(self._all_arrays(pack)), Extent.of(pack))

    def logits(self, pack: Pack) -> Tensor:
        """[N, num_labels] float32, what the head says before any activation."""
        return self.run(self.scoring(pack))

    def scoring(self, pack: Pack) -> Program:
        """`logits` as a program."""
        return Program(
            kind=("logits",),
            arrays=self._all_arrays(pack),
            extent=Extent.of(pack),
            forward=lambda there, extent: self.score(Inputs.of(there, extent)),
            own=slice(pack.num_sequences),
        )

    def score(self, inputs: Inputs) -> Tensor:
        """`logits` of a pack that is on the device; waits for nothing there.

        Sequences may fill less than T, and sequences at the end may be empty: their logits mean
        nothing.
        """
        if self._head is None:
            raise ModelError(f"{self.config.architecture} was loaded as an encoder, without a head")
        hidden, cu_seqlens = self._encode(inputs), inputs.spans.cu_seqlens
        if self.config.pooling == "all" and isinstance(self._head, PoolingHead):
            return self._head.of_all(hidden, cu_seqlens)
        if self.config.pooling == "mean":
            hidden = mean_of_each(hidden, cu_seqlens)
        return self._head(hidden)

    def hidden_states(
        self, pack: Pack, num_keys: Int32 | None = None, rows: Int32 | None = None
    ) -> Tensor:
        """[R, hidden] in `dtype`, the last layer's output at every token that is wanted.

        Args:
            pack: the sequences.
            num_keys: [N] int32. Only the first num_keys[n] tokens of sequence n are attended to
                (ColBERT's mask tokens attend, and are not attended to). None: all are.
            rows: [R] int32, rising, of the pack's T tokens those that are wanted; None: all are.
        """
        return self.run(self.encoding(pack, num_keys, rows))

    def encoding(
        self, pack: Pack, num_keys: Int32 | None = None, rows: Int32 | None = None
    ) -> Program:
        """`hidden_states` as a program."""
        if self._head is not None:
            raise ModelError(f"{self.config.architecture} was loaded for scores; load an encoder")
        arrays = self._all_arrays(pack)
        if num_keys is not None:
            arrays |= key_arrays(pack.cu_seqlens, num_keys)
        if rows is not None:
            arrays |= {"rows": Array(rows, "token")}
        return Program(
            kind=("states",),
            arrays=arrays,
            extent=Extent.of(pack),
            forward=lambda there, extent: self._states(Inputs.of(there, extent)),
            own=slice(len(pack.token_ids if rows is None else rows)),
        )

    def _states(self, inputs: Inputs) -> Tensor:
        states = self._encode(inputs)
        return states if inputs.rows is None else states.index_select(0, inputs.rows)

    def _all_arrays(self, pack: Pack) -> dict[str, Array]:
        """`arrays`, and where the sequences start."""
        return self.arrays(pack) | {"cu_seqlens": Array(pack.cu_seqlens, "start")}

    def _uploaded(self, arrays: dict[str, Array]) -> dict[str, Tensor]:
        return self.upload({name: array.values for name, array in arrays.items()})

    @abstractmethod
    def _load_head(self, parameters: Parameters) -> Head:
        """The scoring head; names are full, weights float32."""

    @abstractmethod
    def _encode(self, inputs: Inputs) -> Tensor:
        """The last layer's output: [N, hidden] if `_first_token_only`, else [T, hidden]."""


def _copied(device: torch.device, arrays: dict[str, Int32]) -> dict[str, Tensor]:
    """What `Model.upload` does without a runner: a copy an array, each of which waits."""
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def mean_of_each(hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[N, hidden] float32. One sum a sequence, over its own rows: company changes no bit of it."""
    lengths = cu_seqlens.diff().long()
    # unsafe: checking that the lengths add up to T would wait for the device, and they need not.
    return torch.segment_reduce(hidden.float(), "mean", lengths=lengths, axis=0, unsafe=True)
