"""The activations of `packed.ACTIVATIONS` on float32 values, for the epilogues of the kernels.

Each is good to about 1e-6 of its value wherever that is not vanishingly small (below 1e-3 GELU: to
1e-8), and passes NaN on. Arguments of the exponential are never positive: nothing overflows on the
way to a finite result.
"""

import triton
import triton.language as tl


@triton.jit
def activate(x, NAME: tl.constexpr):
    """`NAME` of x; None leaves x as it is."""
    if NAME == "gelu":
        return _gelu(x)
    elif NAME == "gelu_tanh":
        # x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3); at 12 the sigmoid has its limit.
        z = tl.minimum(tl.maximum(x, -12.0), 12.0)
        return x * _sigmoid(z * (z * z * 0.0713548163 + 1.5957691216))
    elif NAME == "relu":
        return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif NAME == "silu":
        return x * _sigmoid(x)
    elif NAME == "tanh":
        return _tanh(x)
    else:
        tl.static_assert(NAME is None, "no such activation")
        return x


@triton.jit
def _sigmoid(x):
    tail = tl.exp2(tl.minimum(tl.abs(x), 120.0) * -1.4426950409)
    return tl.where(x < 0, tail, 1.0) / (1.0 + tail)


@triton.jit
def _gelu(x):
    # Exact (erf) form: max(x, 0) - |x| Phi(-|x|); x (1 + erf) would lose the tail to cancellation.
    # log2 Phi(-z) is nearly a parabola: a polynomial that minimises the greatest relative error of
    # the tail up to 6.5 (8e-8), and falls from there on. One exponential, no division: an epilogue
    # has no time for more. At 16 the tail is 0, and so it is for infinity.
    z = tl.minimum(tl.abs(x), 16.0)
    p = z * -2.2799626e-08 + 6.90151346e-07
    p = p * z - 9.00842845e-06
    p = p * z + 6.41686348e-05
    p = p * z - 0.000234345735
    p = p * z - 0.000100185704
    p = p * z + 0.00707671987
    p = p * z - 0.0525335422
    p = p * z - 0.459189609
    p = p * z - 1.15110774
    p = p * z - 1.0
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) - z * tl.exp2(p)


@triton.jit
def _tanh(x):
    z = tl.minimum(tl.abs(x), 20.0, propagate_nan=tl.PropagateNan.ALL)
    tail = tl.exp2(z * -2.8853900818)
    away = (1.0 - tail) / (1.0 + tail)
    s = z * z  # near 0 the difference above cancels: there the Taylor series
    near = z * (s * (s * (s * (s * 0.0218694885 - 0.0539682540) + 0.1333333333) - 0.3333333333) + 1)
    value = tl.where(z < 0.25, near, away)
    return tl.where(x < 0, -value, value)
