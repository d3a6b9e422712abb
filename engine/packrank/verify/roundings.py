"""How far two right computations of one model may be apart, from how it spreads an error.

Rounding errors are independent, so they add in squares. What a relative change of every weight does
to the result is measured on the reference itself, which prices in depth, residuals, cancellation
and how steep this very model is; how large a change roundings amount to follows from the dtype.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from packrank.checkpoint.config import ModelConfig
from packrank.verify.reading import Float32, Pair, Reading, Reference, read

# Relative, of each weight: far above float32's roundings, and small enough to be linear.
_CHANGE = 2.0**-14
# Between the expected size, a root mean square, and what is taken for a fault. Errors differ in
# size from place to place; of thousands of values the largest has been up to 12 times as large.
MARGIN = 20.0
# Half a unit in the last place, relative; the mean square of a rounding is about .4 of it.
_UNITS = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
_RMS = 0.4
# A layer has 4 products in a row; in a narrow dtype it rounds their 4 weights and 7 results (those
# 4, the attention's and two norms').
_PRODUCTS = 4
_NARROW: float = (11 / _PRODUCTS) ** 0.5


@dataclass(frozen=True)
class Spread:
    """What a relative change of all weights by 1 would do, by what a small one does.

    Attributes:
        values: root mean square of the change of logits or token vectors.
        scores: the same of scores.
    """

    values: float
    scores: float


def relative(dtype: torch.dtype, config: ModelConfig) -> float:
    """The relative change of its weights that roundings of a product amount to.

    In float32 a sum of K terms rounds K - 1 times, at half its final size in the mean; results
    round besides, as they do in narrow dtypes, whose sums are float32 too.
    """
    unit = _RMS * _UNITS[dtype]
    if dtype != torch.float32:
        return unit * _NARROW
    terms = max(config.hidden_size, config.intermediate_size)
    return float(unit * (terms / 2 + _NARROW**2) ** 0.5)


def usual_spread(config: ModelConfig, size: float) -> float:
    """`Spread` of logits where no reference can be asked: a layer changes them by its products.

    Args:
        config: of the model.
        size: of the logits.
    """
    return float((_PRODUCTS * config.num_layers) ** 0.5 * size)


def measured_spread(reference: Reference, pairs: list[Pair], before: list[Reading]) -> Spread:
    """What a small change of a reference's weights does; it cannot be used after.

    Args:
        reference: with a module.
        pairs: some.
        before: what it made of them.
    """
    assert reference.module is not None
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for module in reference.module.modules():
            if isinstance(module, torch.nn.Linear):
                weight = module.weight
                noise = torch.randn(weight.shape, generator=generator).to(weight.device)
                weight.mul_(noise.mul_(_CHANGE).add_(1.0))
    after = [read(reference, pair, whole=True) for pair in pairs]
    changes = list(zip(before, after, strict=True))
    values = [
        (x, y)
        for one, two in changes
        for x, y in zip(one.values or (), two.values or (), strict=True)
    ]
    scores = [
        (one.scores, two.scores)
        for one, two in changes
        if one.scores is not None and two.scores is not None
    ]
    return Spread(_rms(values) / _CHANGE, _rms(scores) / _CHANGE)


def _rms(pairs: Iterable[tuple[Float32, Float32]]) -> float:
    """Root mean square of the differences that are finite."""
    nothing = np.zeros(0)
    each = [(x.astype(np.float64) - y).ravel() for x, y in pairs if x.shape == y.shape]
    every = np.concatenate([nothing, *each])
    every = every[np.isfinite(every)]
    return float(np.sqrt(np.mean(every**2))) if len(every) else 0.0
