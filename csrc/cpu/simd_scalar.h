// Vectors of four floats in the compiler's own vector extension: runs on any little-endian
// processor. Included by scalar.cpp alone, inside its namespace.

typedef float V __attribute__((vector_size(16)));
typedef int32_t Mask __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(16)));
constexpr int kWidth = 4;
constexpr int kRegisters = 16;

inline V load(const float* p) {
    V x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
}
inline void store(float* p, V x) { __builtin_memcpy(p, &x, sizeof(x)); }
inline V set1(float x) { return V{x, x, x, x}; }
inline V add(V a, V b) { return a + b; }
inline V sub(V a, V b) { return a - b; }
inline V mul(V a, V b) { return a * b; }
inline V fma(V a, V b, V c) { return a * b + c; }
inline V select(Mask mask, V yes, V no) { return mask ? yes : no; }
inline V max(V a, V b) { return a > b ? a : b; }  // b where either is NaN
inline V min(V a, V b) { return a < b ? a : b; }
inline V abs(V a) { return (V)((Words)a & 0x7fffffffu); }
inline V reciprocal(V a) { return 1.0f / a; }

// To nearest, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline V round(V a) {
    const V s = set1(12582912.0f);
    return (a + s) - s;
}

// a * 2^n for integral n in [-160, 128], in two factors: 2^128 is no float.
inline V power_of_two(V n) { return (V)((__builtin_convertvector(n, Mask) + 127) << 23); }
inline V scale_by_power(V a, V n) {
    const V half = round(mul(n, set1(0.5f)));
    return a * power_of_two(half) * power_of_two(n - half);
}

inline Mask less(V a, V b) { return a < b; }
inline Mask unordered(V a, V b) { return (a != a) | (b != b); }
inline Mask none() { return Mask{0, 0, 0, 0}; }
inline Mask either(Mask a, Mask b) { return a | b; }

// Across lanes, in a fixed order.
inline float sum(V x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline float largest(V x) {
    const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
    return a > b ? a : b;
}

// Round to nearest even; NaN keeps its upper half, made quiet.
inline V load(const BFloat16* p) {
    return (V)(Words{p[0].bits, p[1].bits, p[2].bits, p[3].bits} << 16);
}
// Exact: the exponent is moved by a product, which also makes subnormal numbers normal.
inline V load(const Float16* p) {
    const Words h = {p[0].bits, p[1].bits, p[2].bits, p[3].bits};
    const Words magnitude = (h & 0x7fffu) << 13;
    const Words wide = (Words)((V)magnitude * set1(5.192296858534828e33f));  // 2^112
    const Words special = (Words)((h & 0x7c00u) == 0x7c00u) & 0x7f800000u;
    return (V)(wide | special | (h & 0x8000u) << 16);
}
inline void store(BFloat16* p, V x) {
    const Words bits = (Words)x;
    const Words rounded = bits + ((bits >> 16) & 1u) + 0x7fffu;
    const Words y = ((x != x) ? (bits | 0x400000u) : rounded) >> 16;
    for (int i = 0; i < kWidth; ++i) p[i].bits = static_cast<uint16_t>(y[i]);
}

// The lanes at p + index[i].
inline V gather(const float* p, const int32_t* index) {
    return V{p[index[0]], p[index[1]], p[index[2]], p[index[3]]};
}

// The first n lanes, 0 < n < kWidth; the rest read as zero and are not written.
template <class T>
inline V load(const T* p, int n) {
    T lanes[kWidth] = {};
    __builtin_memcpy(lanes, p, sizeof(T) * n);
    return load(lanes);
}
template <class T>
inline void store(T* p, V x, int n) {
    T lanes[kWidth];
    store(lanes, x);
    __builtin_memcpy(p, lanes, sizeof(T) * n);
}

// One operand of a product step: a float, or the lower then the upper of two neighbouring bfloat16
// of the inner dimension.
template <class T>
struct Product;

template <>
struct Product<float> {
    using Sum = V;
    static constexpr int kSteps = 1;
    using Operand = V;
    static Operand load(const uint32_t* p, int) { return scalar::load((const float*)p); }
    static Operand broadcast(uint32_t x, int) { return (V)Words{x, x, x, x}; }
    static V accumulate(Operand a, Operand b, V c) { return fma(a, b, c); }
};

template <>
struct Product<BFloat16> {
    using Sum = V;
    static constexpr int kSteps = 2;
    using Operand = V;
    static Operand half(Words pair, int step) {
        return (V)(step == 0 ? pair << 16 : pair & 0xffff0000u);
    }
    static Operand load(const uint32_t* p, int step) {
        Words x;
        __builtin_memcpy(&x, p, sizeof(x));
        return half(x, step);
    }
    static Operand broadcast(uint32_t x, int step) { return half(Words{x, x, x, x}, step); }
    static V accumulate(Operand a, Operand b, V c) { return fma(a, b, c); }
};

// Four neighbouring bytes, of A without a sign and of B with one. Sums are exact.
typedef int32_t I __attribute__((vector_size(16)));
inline I load(const int32_t* p) {
    I x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
}
inline V to_float(I x) { return __builtin_convertvector(x, V); }

template <>
struct Product<uint8_t> {
    using Sum = I;
    static constexpr int kSteps = 4;
    using Operand = I;
    static Operand load(const uint32_t* p, int step) {
        Words x;
        __builtin_memcpy(&x, p, sizeof(x));
        return (I)(x << (24 - 8 * step)) >> 24;
    }
    static Operand broadcast(uint32_t x, int step) {
        const int32_t byte = static_cast<int32_t>(x >> (8 * step) & 0xff);
        return I{byte, byte, byte, byte};
    }
    static I accumulate(Operand a, Operand b, I c) { return c + a * b; }
};

// Bytes. A load of the first n reads no further, the rest is zero.
struct Bytes {
    static constexpr int kCount = 16;
    typedef uint8_t Lanes __attribute__((vector_size(16)));
    Lanes x;
    static Bytes load(const uint8_t* p, int64_t n) {
        Bytes y = {};
        __builtin_memcpy(&y.x, p, n < kCount ? n : kCount);
        return y;
    }
    static Bytes table(const uint8_t* p) { return load(p, kCount); }
    static Bytes set1(int byte) { return {Lanes{} + static_cast<uint8_t>(byte)}; }
    void store(uint8_t* p) const { __builtin_memcpy(p, &x, sizeof(x)); }
    Bytes operator+(Bytes y) const { return {x + y.x}; }
    // (byte >> shift) & mask
    Bytes field(int shift, Bytes mask) const {
        return {(x >> static_cast<uint8_t>(shift)) & mask.x};
    }
    Bytes operator[](Bytes index) const { return {__builtin_shuffle(x, index.x)}; }
    // The same, and 0 from index 16 on.
    Bytes look_up(Bytes index) const {
        return {__builtin_shuffle(x, index.x) & (Lanes)(index.x < 16)};
    }
};

// out[c][r] = in[r][c] for 4 x 4 32-bit words.
inline void transpose_block(const uint32_t* in, int64_t in_stride, uint32_t* out,
                            int64_t out_stride) {
    for (int r = 0; r < kWidth; ++r)
        for (int c = 0; c < kWidth; ++c)  // rows of bfloat16 need not lie on a 32-bit grid
            __builtin_memcpy(out + c * out_stride + r, in + r * in_stride + c, 4);
}

// kWidth pairs (low[i], high[i]) of bfloat16.
inline void interleave(const BFloat16* low, const BFloat16* high, uint32_t* out) {
    for (int i = 0; i < kWidth; ++i)
        out[i] = low[i].bits | static_cast<uint32_t>(high[i].bits) << 16;
}
