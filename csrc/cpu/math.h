// Elementary functions over a vector. Included once per instruction set, inside its namespace.

// 2^x for x <= 128, to 2 units in the last place; 0 below -150, NaN for NaN.
// x = n + r, |r| <= 1/2; the polynomial of 2^r was fitted here to a relative error of 2e-9.
inline V exp2(V x) {
    const V clamped = max(set1(-160.0f), x);  // NaN passes through
    const V n = round(clamped);
    const V r = sub(clamped, n);
    V p = set1(0.0001534580748f);
    p = fma(p, r, set1(0.001339993118f));
    p = fma(p, r, set1(0.009618488974f));
    p = fma(p, r, set1(0.05550328777f));
    p = fma(p, r, set1(0.2402264689f));
    p = fma(p, r, set1(0.6931472057f));
    p = fma(p, r, set1(1.0f));
    return scale_by_power(p, n);
}

// e^x to a relative error of 1e-7 |x|.
inline V exp(V x) { return exp2(min(set1(128.0f), mul(x, set1(1.44269504f)))); }

// x Phi(x), exact (erf) form: max(x, 0) - |x| Phi(-|x|).
// Phi(-z) = e^(-z^2 / 2) R(t), t = 1 / (1 + 0.27 z), the form of Abramowitz and Stegun 7.1.26; the
// polynomial R was fitted here to 2.5e-9 over 0 <= z <= 6, beyond which the product vanishes.
inline V gelu(V x) {
    const V z = abs(x);
    const V t = reciprocal(fma(z, set1(0.27f), set1(1.0f)));
    V p = set1(-0.1345223024f);
    p = fma(p, t, set1(0.5731494402f));
    p = fma(p, t, set1(-0.5506256329f));
    p = fma(p, t, set1(0.535815059f));
    p = fma(p, t, set1(-0.06559419033f));
    p = fma(p, t, set1(0.1451956324f));
    p = fma(p, t, set1(-0.003418008404f));
    const V tail = mul(z, mul(p, exp(mul(mul(z, z), set1(-0.5f)))));
    return sub(max(set1(0.0f), x), tail);  // max(0, NaN) is NaN
}

// 1 / (1 + e^-x), 0 below -88; e^88 keeps the sum finite.
inline V sigmoid(V x) {
    const V y = exp(min(set1(88.0f), sub(set1(0.0f), x)));  // NaN passes through
    return select(less(x, set1(-88.0f)), set1(0.0f), reciprocal(add(set1(1.0f), y)));
}

inline V silu(V x) { return mul(x, sigmoid(x)); }

// x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): the tanh form of GELU.
inline V gelu_tanh(V x) {
    const V u2 = mul(x, fma(mul(x, x), set1(0.0713548163f), set1(1.5957691216f)));
    return mul(x, sigmoid(u2));
}

// To a relative error of 3e-7: near 0 the continued fraction of Lambert to its fifth term,
// elsewhere 1 - 2 / (e^2x + 1); e^60 is past where that rounds to 1.
inline V tanh(V x) {
    const V y = exp(min(set1(60.0f), add(x, x)));  // NaN passes through
    const V z = mul(x, x);
    const V upper = mul(x, fma(add(z, set1(105.0f)), z, set1(945.0f)));
    const V lower = fma(fma(z, set1(15.0f), set1(420.0f)), z, set1(945.0f));
    const Mask is_small = less(abs(x), set1(0.55f));
    return mul(select(is_small, upper, sub(y, set1(1.0f))),
               reciprocal(select(is_small, lower, add(y, set1(1.0f)))));
}

template <Activation kActivation>
inline V activate(V x) {
    if constexpr (kActivation == Activation::kGelu) return gelu(x);
    if constexpr (kActivation == Activation::kGeluTanh) return gelu_tanh(x);
    if constexpr (kActivation == Activation::kRelu) return max(set1(0.0f), x);
    if constexpr (kActivation == Activation::kSilu) return silu(x);
    if constexpr (kActivation == Activation::kTanh) return tanh(x);
    return x;
}
