// Vectors of AVX-512 with BF16 (Zen 4, Cooper Lake, Sapphire Rapids and newer).
// Included by avx512.cpp alone, inside its namespace.

using V = __m512;
using Mask = __mmask16;
constexpr int kWidth = 16;
constexpr int kRegisters = 32;

inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, V x) { _mm512_storeu_ps(p, x); }
inline V set1(float x) { return _mm512_set1_ps(x); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V max(V a, V b) { return _mm512_max_ps(a, b); }  // b where either is NaN
inline V min(V a, V b) { return _mm512_min_ps(a, b); }
inline V abs(V a) { return _mm512_abs_ps(a); }
inline V round(V a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// 1 / a to 2^-24: the 14-bit estimate and one Newton step; a full division costs four times that.
inline V reciprocal(V a) {
    const V estimate = _mm512_rcp14_ps(a);
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(a, estimate, set1(1.0f)), estimate, estimate);
}

// a * 2^n for integral n in [-160, 128].
inline V scale_by_power(V a, V n) { return _mm512_scalef_ps(a, n); }

inline Mask less(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask unordered(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
inline Mask none() { return 0; }
inline Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
inline V select(Mask mask, V yes, V no) { return _mm512_mask_blend_ps(mask, no, yes); }

// Across lanes, in a fixed order.
inline float sum(V x) { return _mm512_reduce_add_ps(x); }
inline float largest(V x) { return _mm512_reduce_max_ps(x); }

inline __m256i to_bf16(V x) { return (__m256i)_mm512_cvtneps_pbh(x); }
inline V from_bf16(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
inline V load(const BFloat16* p) { return from_bf16(_mm256_loadu_si256((const __m256i*)p)); }
inline void store(BFloat16* p, V x) { _mm256_storeu_si256((__m256i*)p, to_bf16(x)); }

// The lanes at p + index[i].
inline V gather(const float* p, const int32_t* index) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(index), p, 4);
}

// The first n lanes, 0 < n < kWidth; the rest read as zero and are not written.
inline Mask first(int n) { return static_cast<Mask>((1u << n) - 1); }
inline V load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline V load(const BFloat16* p, int n) { return from_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }
inline void store(float* p, V x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
inline void store(BFloat16* p, V x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_bf16(x)); }

// One operand of a product step: a float, or two neighbouring bfloat16 of the inner dimension.
template <class T>
struct Product;

template <>
struct Product<float> {
    using Sum = V;
    static constexpr int kSteps = 1;
    using Operand = __m512;
    static Operand load(const uint32_t* p, int) { return _mm512_loadu_ps(p); }
    static Operand broadcast(uint32_t x, int) {
        return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(x)));
    }
    static V accumulate(Operand a, Operand b, V c) { return _mm512_fmadd_ps(a, b, c); }
};

template <>
struct Product<BFloat16> {
    using Sum = V;
    static constexpr int kSteps = 1;
    using Operand = __m512bh;
    static Operand load(const uint32_t* p, int) { return (Operand)_mm512_loadu_si512(p); }
    static Operand broadcast(uint32_t x, int) {
        return (Operand)_mm512_set1_epi32(static_cast<int>(x));
    }
    static V accumulate(Operand a, Operand b, V c) { return _mm512_dpbf16_ps(c, a, b); }
};

// Four neighbouring bytes, of A without a sign and of B with one; sums are exact.
// (As int32 lanes: of __m512i, 64-bit lanes, GCC 12 keeps a copy of every sum in memory.)
typedef int32_t I __attribute__((vector_size(64)));
inline I load(const int32_t* p) { return (I)_mm512_loadu_si512(p); }
inline V to_float(I x) { return _mm512_cvtepi32_ps((__m512i)x); }

template <>
struct Product<uint8_t> {
    using Sum = I;
    static constexpr int kSteps = 1;
    using Operand = I;
    static Operand load(const uint32_t* p, int) { return (I)_mm512_loadu_si512(p); }
    static Operand broadcast(uint32_t x, int) { return I{} + static_cast<int32_t>(x); }
    static I accumulate(Operand a, Operand b, I c) {
        return (I)_mm512_dpbusd_epi32((__m512i)c, (__m512i)a, (__m512i)b);
    }
};

// Bytes. A load of the first n reads no further, the rest is zero.
struct Bytes {
    static constexpr int kCount = 64;
    __m512i x;
    static Bytes load(const uint8_t* p, int64_t n) {
        if (n >= kCount) return {_mm512_loadu_si512(p)};
        return {_mm512_maskz_loadu_epi8((__mmask64{1} << n) - 1, p)};
    }
    static Bytes table(const uint8_t* p) {
        return {_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)p))};
    }
    static Bytes set1(int byte) { return {_mm512_set1_epi8(static_cast<char>(byte))}; }
    void store(uint8_t* p) const { _mm512_storeu_si512(p, x); }
    Bytes operator+(Bytes y) const { return {_mm512_add_epi8(x, y.x)}; }
    // (byte >> shift) & mask
    Bytes field(int shift, Bytes mask) const {
        return {_mm512_and_si512(_mm512_srli_epi16(x, shift), mask.x)};
    }
    Bytes operator[](Bytes index) const { return {_mm512_shuffle_epi8(x, index.x)}; }
    // The same, and 0 from index 16 on.
    Bytes look_up(Bytes index) const {
        return (*this)[{_mm512_adds_epu8(index.x, _mm512_set1_epi8(0x70))}];
    }
};

inline V load(const Float16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline V load(const Float16* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
}

// out[c][r] = in[r][c] for 16 x 16 32-bit words.
inline void transpose_block(const uint32_t* in, int64_t in_stride, uint32_t* out,
                            int64_t out_stride) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(in + i * in_stride);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
        b[4 + i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
        b[8 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
        b[12 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        _mm512_storeu_si512(out + i * out_stride, _mm512_shuffle_i32x4(b[i], b[8 + i], 0x88));
        _mm512_storeu_si512(out + (8 + i) * out_stride, _mm512_shuffle_i32x4(b[i], b[8 + i], 0xdd));
        _mm512_storeu_si512(out + (4 + i) * out_stride,
                            _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0x88));
        _mm512_storeu_si512(out + (12 + i) * out_stride,
                            _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0xdd));
    }
}

// kWidth pairs (low[i], high[i]) of bfloat16.
inline void interleave(const BFloat16* low, const BFloat16* high, uint32_t* out) {
    const __m512i l = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)low));
    const __m512i h = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)high));
    _mm512_storeu_si512(out, _mm512_or_si512(l, _mm512_slli_epi32(h, 16)));
}
