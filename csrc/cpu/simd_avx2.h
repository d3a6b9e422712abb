// Vectors of AVX2 with FMA (Haswell, Zen and newer). Included by avx2.cpp alone, in its namespace.

using V = __m256;
using Mask = __m256;
constexpr int kWidth = 8;
constexpr int kRegisters = 16;

inline V load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, V x) { _mm256_storeu_ps(p, x); }
inline V set1(float x) { return _mm256_set1_ps(x); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V sub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V max(V a, V b) { return _mm256_max_ps(a, b); }  // b where either is NaN
inline V min(V a, V b) { return _mm256_min_ps(a, b); }
inline V abs(V a) { return _mm256_andnot_ps(set1(-0.0f), a); }
inline V round(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline V reciprocal(V a) { return _mm256_div_ps(set1(1.0f), a); }

// a * 2^n for integral n in [-160, 128], in two factors: 2^128 is no float.
inline V power_of_two(V n) {
    const __m256i bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
}
inline V scale_by_power(V a, V n) {
    const V half = round(mul(n, set1(0.5f)));
    return mul(mul(a, power_of_two(half)), power_of_two(sub(n, half)));
}

inline Mask less(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask unordered(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
inline Mask none() { return _mm256_setzero_ps(); }
inline Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
inline V select(Mask mask, V yes, V no) { return _mm256_blendv_ps(no, yes, mask); }

// Across lanes, in a fixed order.
inline float sum(V x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
inline float largest(V x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

inline V from_bf16(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
// Round to nearest even; NaN keeps its upper half, made quiet.
inline __m128i to_bf16(V x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i y = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    y = _mm256_blendv_epi8(y, quiet, _mm256_castps_si256(unordered(x, x)));
    y = _mm256_srli_epi32(y, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
}
inline V load(const BFloat16* p) { return from_bf16(_mm_loadu_si128((const __m128i*)p)); }
inline V load(const Float16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline void store(BFloat16* p, V x) { _mm_storeu_si128((__m128i*)p, to_bf16(x)); }

// The lanes at p + index[i].
inline V gather(const float* p, const int32_t* index) {
    return _mm256_i32gather_ps(p, _mm256_loadu_si256((const __m256i*)index), 4);
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
// of the inner dimension (there is no bfloat16 product here).
template <class T>
struct Product;

template <>
struct Product<float> {
    using Sum = V;
    static constexpr int kSteps = 1;
    using Operand = V;
    static Operand load(const uint32_t* p, int) { return _mm256_loadu_ps((const float*)p); }
    static Operand broadcast(uint32_t x, int) {
        return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(x)));
    }
    static V accumulate(Operand a, Operand b, V c) { return fma(a, b, c); }
};

template <>
struct Product<BFloat16> {
    using Sum = V;
    static constexpr int kSteps = 2;
    using Operand = V;
    static Operand half(__m256i pair, int step) {
        return _mm256_castsi256_ps(
            step == 0 ? _mm256_slli_epi32(pair, 16)
                      : _mm256_and_si256(pair, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
    }
    static Operand load(const uint32_t* p, int step) {
        return half(_mm256_loadu_si256((const __m256i*)p), step);
    }
    static Operand broadcast(uint32_t x, int step) {
        return half(_mm256_set1_epi32(static_cast<int>(x)), step);
    }
    static V accumulate(Operand a, Operand b, V c) { return fma(a, b, c); }
};

// Four neighbouring bytes, of A without a sign and of B with one, the even ones then the odd ones:
// the instruction that takes all four at once may saturate. Sums are exact.
using I = __m256i;
inline I load(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline V to_float(I x) { return _mm256_cvtepi32_ps(x); }

template <>
struct Product<uint8_t> {
    using Sum = I;
    static constexpr int kSteps = 2;
    using Operand = __m256i;
    static Operand load(const uint32_t* p, int step) {
        const __m256i x = _mm256_loadu_si256((const __m256i*)p);
        return _mm256_srai_epi16(step == 0 ? _mm256_slli_epi16(x, 8) : x, 8);
    }
    static Operand broadcast(uint32_t x, int step) {
        return _mm256_set1_epi32(static_cast<int>((step == 0 ? x : x >> 8) & 0x00ff00ff));
    }
    static I accumulate(Operand a, Operand b, I c) {
        return _mm256_add_epi32(c, _mm256_madd_epi16(a, b));
    }
};

// Bytes. A load of the first n reads no further, the rest is zero.
struct Bytes {
    static constexpr int kCount = 32;
    __m256i x;
    static Bytes load(const uint8_t* p, int64_t n) {
        if (n >= kCount) return {_mm256_loadu_si256((const __m256i*)p)};
        uint8_t bytes[kCount] = {};
        __builtin_memcpy(bytes, p, n);
        return {_mm256_loadu_si256((const __m256i*)bytes)};
    }
    static Bytes table(const uint8_t* p) {
        return {_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p))};
    }
    static Bytes set1(int byte) { return {_mm256_set1_epi8(static_cast<char>(byte))}; }
    void store(uint8_t* p) const { _mm256_storeu_si256((__m256i*)p, x); }
    Bytes operator+(Bytes y) const { return {_mm256_add_epi8(x, y.x)}; }
    // (byte >> shift) & mask
    Bytes field(int shift, Bytes mask) const {
        return {_mm256_and_si256(_mm256_srli_epi16(x, shift), mask.x)};
    }
    Bytes operator[](Bytes index) const { return {_mm256_shuffle_epi8(x, index.x)}; }
    // The same, and 0 from index 16 on.
    Bytes look_up(Bytes index) const {
        return (*this)[{_mm256_adds_epu8(index.x, _mm256_set1_epi8(0x70))}];
    }
};

// out[c][r] = in[r][c] for 8 x 8 32-bit words.
inline void transpose_block(const uint32_t* in, int64_t in_stride, uint32_t* out,
                            int64_t out_stride) {
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps((const float*)(in + i * in_stride));
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        store((float*)(out + i * out_stride), _mm256_permute2f128_ps(a[i], a[4 + i], 0x20));
        store((float*)(out + (4 + i) * out_stride), _mm256_permute2f128_ps(a[i], a[4 + i], 0x31));
    }
}

// kWidth pairs (low[i], high[i]) of bfloat16.
inline void interleave(const BFloat16* low, const BFloat16* high, uint32_t* out) {
    const __m256i l = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)low));
    const __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)high));
    _mm256_storeu_si256((__m256i*)out, _mm256_or_si256(l, _mm256_slli_epi32(h, 16)));
}
