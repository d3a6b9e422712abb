"""Heads that sentence-transformers' modules make: hidden states pooled, then layers to scores."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from packrank.checkpoint.scoring_modules import (
    FUSED,
    SCORES,
    TOKENS,
    VECTOR,
    DenseModule,
    LayerNormModule,
    NormalizeModule,
    ScoringModules,
    VectorModule,
)
from packrank.checkpoint.weights import Weights
from packrank.errors import ModelError
from packrank.models.base import Parameters, PoolingHead

_NORM_EPS = 1e-5  # torch.nn.LayerNorm's own, which no file changes

Layer = Callable[[Tensor], Tensor]


class ModularHead(PoolingHead):
    """Scores of hidden states, in float32; a row's bits do not depend on the other rows.

    Args:
        modules: as sentence-transformers chains them.
        parameters: whose device and `deterministic` they take.
    """

    def __init__(self, modules: ScoringModules, parameters: Parameters) -> None:
        self._modules = modules
        self._tokens = [_Step.load(module, parameters) for module in modules.tokens]
        self._vectors = [_Step.load(module, parameters) for module in modules.vectors]

    def __call__(self, hidden: Tensor) -> Tensor:
        """[N, hidden] -> [N, labels] float32, of the one hidden state that each pooling chooses."""
        return self._scores(_run(self._tokens, {TOKENS: hidden.float()})[TOKENS])

    def of_all(self, hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
        """[T, hidden] of a pack -> [N, labels] float32."""
        x = _run(self._tokens, {TOKENS: hidden.float()})[TOKENS]
        pools = _Pools(x, cu_seqlens, self._modules.skipped)
        return self._scores(torch.cat([pools.of(mode) for mode in self._modules.pooling], dim=1))

    def _scores(self, pooled: Tensor) -> Tensor:
        return _run(self._vectors, {VECTOR: pooled})[SCORES]


class _Pools:
    """Hidden states x [T, H] of a pack, pooled by sentence-transformers' rules.

    Sums are over a sequence's own rows, in order: company changes no bit of them.
    """

    def __init__(self, x: Tensor, cu_seqlens: Tensor, skipped: int) -> None:
        self._x, self._ends = x, cu_seqlens.long()
        self._lengths = self._ends.diff()
        self._skipped = skipped
        self._counts = (self._lengths - skipped).clamp(min=0)

    def of(self, mode: str) -> Tensor:
        """[N, H]."""
        last = len(self._x) - 1
        if mode == "cls":
            first = self._ends[:-1] + torch.where(self._counts > 0, self._skipped, 0)
            return self._x.index_select(0, first.clamp(max=last))
        if mode == "lasttoken":
            rows = self._x.index_select(0, (self._ends[1:] - 1).clamp(min=0))
            return rows.where(self._counts[:, None] > 0, 0.0) if self._skipped else rows
        if mode == "max":
            x = self._x
            if self._skipped:
                x = x.masked_fill((self._places() < self._skipped)[:, None], -torch.inf)
            return self._reduce(x, "max")
        if mode == "weightedmean":
            places = self._places()
            weights = torch.where(places < self._skipped, 0, places + 1).to(self._x.dtype)
            total = self._reduce(weights[:, None], "sum").clamp(min=1e-9)
            return self._reduce(self._x * weights[:, None], "sum") / total
        x = self._x
        if self._skipped:
            x = x * (self._places() >= self._skipped)[:, None]
        counts = self._counts[:, None].to(x.dtype).clamp(min=1e-9)
        return self._reduce(x, "sum") / (counts.sqrt() if mode.endswith("len_tokens") else counts)

    def _places(self) -> Tensor:
        """[T], how far each token stands from its sequence's first."""
        tokens = torch.arange(len(self._x), device=self._x.device)
        owners = torch.searchsorted(self._ends[1:].contiguous(), tokens, right=True)
        return tokens - self._ends[owners.clamp(max=len(self._lengths) - 1)]

    def _reduce(self, x: Tensor, how: str) -> Tensor:
        # unsafe: to check that the lengths add up to T would wait for the device.
        return torch.segment_reduce(x, how, lengths=self._lengths, axis=0, unsafe=True)


@dataclass(frozen=True)
class _Step:
    """A module with its weights: target = layer(source)."""

    source: str
    target: str
    layer: Layer

    @classmethod
    def load(cls, module: VectorModule, parameters: Parameters) -> "_Step":
        if isinstance(module, NormalizeModule):
            return cls(module.source, module.target, _normalize)
        weights = Weights.open(module.folder)
        if (unread := set(weights.files) - module.tensors) or module.tensors - set(weights.files):
            what = f"an unexpected tensor {min(unread)}" if unread else "a tensor missing"
            raise ModelError(
                f"{module.folder} has {what}; its config.json implies "
                f"{', '.join(sorted(module.tensors))}"
            )
        own = Parameters(
            weights, "", parameters.device, torch.float32, deterministic=parameters.deterministic
        )
        layer = _norm(module, own) if isinstance(module, LayerNormModule) else _dense(module, own)
        return cls(module.source, module.target, layer)


def _run(steps: Iterable[_Step], vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    for step in steps:
        vectors[step.target] = step.layer(vectors[step.source])
    return vectors


def _norm(module: LayerNormModule, own: Parameters) -> Layer:
    norm = own.norm("norm", module.size, _NORM_EPS)
    return lambda x: norm(x)[0]


def _dense(module: DenseModule, own: Parameters) -> Layer:
    sizes = (module.in_features, module.out_features)
    fused = FUSED.get(module.activation)
    linear = own.linear("linear", *sizes, bias=module.bias, activation=fused)
    activate = None if fused or module.activation == "Identity" else _activation(module, own)
    project: Layer = _same
    if "residual.weight" in module.tensors:
        project = own.linear("residual", *sizes, bias=False)

    def layer(x: Tensor) -> Tensor:
        y = linear(x)
        if activate is not None:
            y = _row_by_row(activate, y)
        return y + project(x) if module.residual else y

    return layer


def _activation(module: DenseModule, own: Parameters) -> Layer:
    if module.activation == "PReLU":
        slope = own.vector("activation_function.weight", 1)
        return lambda row: F.prelu(row, slope)
    over_all = {"dim": -1} if "oftm" in module.activation else {}
    made = getattr(torch.nn, module.activation)(**over_all)
    function: Layer = made.eval()
    return function


def _same(x: Tensor) -> Tensor:
    return x


def _normalize(x: Tensor) -> Tensor:
    return _row_by_row(lambda row: F.normalize(row, dim=-1), x)


def _row_by_row(function: Layer, x: Tensor) -> Tensor:
    """function(x) of rows x [N, D].

    On a CPU one at a time: torch takes what is left over at the end of a tensor by other code, so a
    row's bits would depend on where it stands.
    """
    if x.device.type != "cpu" or not len(x):
        return function(x)
    return torch.stack([function(row) for row in x])
