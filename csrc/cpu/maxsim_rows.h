// Document tokens as the product reads them: where they lie, or decoded into scratch, a few dozen
// at a time so that they are still in the first-level cache.
// Included once per instruction set, in its namespace.
//
// Integers lie in scratch without a sign, 128 added: the product of bytes wants one operand so.

// Bytes of decoded rows that are alive at once, or those of 24 rows if they are more.
constexpr int64_t kBlockBytes = 4096;

// Tokens [first, end).
struct Span {
    int64_t first, end;
};

struct Rows {
    const char* data;
    int64_t stride;                   // bytes
    const char* ahead;                // what is read next, fetched during the products
    int64_t ahead_unit;               // bytes of it a row and unit
    const float* outliers = nullptr;  // [rows, E], or null
};

// Bytes of a token's row where it is stored.
inline int64_t stored_bytes(const MaxSimArgs& args) {
    if (args.bits) return args.size * args.bits / 8;
    if (args.dtype == Dtype::kFloat32) return args.size * 4;
    return args.dtype == Dtype::kInt8 ? args.size : args.size * 2;
}

inline const char* stored(const MaxSimArgs& args, int64_t token) {
    return static_cast<const char*>(args.values) + token * stored_bytes(args);
}

template <class T>
int64_t row_bytes(int64_t size) {
    return num_units<T>(size) * 4;
}

// Tokens of a block: whole tiles of 4, 8 or 12 rows.
template <class T>
int64_t block_tokens(int64_t size) {
    const int64_t fitting = kBlockBytes / row_bytes<T>(size) / 24 * 24;
    return fitting < 24 ? 24 : fitting;
}

// Bytes of a block's rows, where a decoder may write a vector too many.
template <class T>
int64_t decoded_bytes(int64_t size) {
    return block_tokens<T>(size) * row_bytes<T>(size) + 64;
}

// The same, and what outlies in them.
template <class T>
int64_t scratch_bytes(const MaxSimArgs& args) {
    return decoded_bytes<T>(args.size) +
           block_tokens<T>(args.size) * args.num_outliers * static_cast<int64_t>(sizeof(float));
}

// Weights of fields, 16 a table.
template <int kBits>
struct Weights {
    static constexpr int kTables = kBits == 8 ? 16 : 1;
    Bytes tables[kTables];

    explicit Weights(const uint8_t* weights) {
        for (int i = 0; i < kTables; ++i) {
            uint8_t some[16] = {};
            __builtin_memcpy(some, weights + i * 16, kBits < 4 ? 1 << kBits : 16);
            tables[i] = Bytes::table(some);
        }
    }

    Bytes of(Bytes fields) const {
        if constexpr (kTables == 1) return tables[0][fields];
        Bytes found = tables[0].look_up(fields);
#pragma GCC unroll 16
        for (int i = 1; i < kTables; ++i)
            found = found + tables[i].look_up(fields + Bytes::set1(-16 * i));
        return found;
    }
};

// out[p * bytes + n] = centroid[p * bytes + n] + weight of field p of packed[n]; may write kCount
// bytes too many.
template <int kBits>
inline void decode_residual(const uint8_t* packed, const uint8_t* centroid,
                            const Weights<kBits>& weights, int64_t bytes, uint8_t* out) {
    constexpr int kPlanes = 8 / kBits;
    const Bytes mask = Bytes::set1((1 << kBits) - 1);
    if (bytes <= Bytes::kCount) {
        // Planes in order: what one writes too many, the next writes again.
        const Bytes x = Bytes::load(packed, bytes);
#pragma GCC unroll 8
        for (int p = 0; p < kPlanes; ++p) {
            const Bytes row = Bytes::load(centroid + p * bytes, bytes);
            (row + weights.of(x.field(8 - kBits * (p + 1), mask))).store(out + p * bytes);
        }
        return;
    }
    for (int p = 0; p < kPlanes; ++p)
        for (int64_t n = 0; n < bytes; n += Bytes::kCount) {
            const Bytes x = Bytes::load(packed + n, bytes - n);
            const Bytes row = Bytes::load(centroid + p * bytes + n, bytes - n);
            (row + weights.of(x.field(8 - kBits * (p + 1), mask))).store(out + p * bytes + n);
        }
}

// A centroid's row is anywhere in a table larger than the first-level cache: those of `next` are
// fetched meanwhile.
template <int kBits>
inline bool residual_rows(const MaxSimArgs& args, int64_t token, int64_t count, Span next,
                          uint8_t* out) {
    const Weights<kBits> weights(args.bucket_weights);
    const int64_t bytes = args.size * kBits / 8, stride = row_bytes<uint8_t>(args.size);
    const uint8_t* packed = static_cast<const uint8_t*>(args.values) + token * bytes;
    bool sound = true;
    for (int64_t r = 0; r < count; ++r) {
        if (next.first + r < next.end) {
            const uint8_t* row = args.centroids + args.codes[next.first + r] * args.size;
            for (int64_t n = 0; n < args.size; n += 64) __builtin_prefetch(row + n);
        }
        int64_t code = args.codes[token + r];
        if (code < 0 || code >= args.num_centroids) {
            code = 0;
            sound = false;
        }
        decode_residual<kBits>(packed + r * bytes, args.centroids + code * args.size, weights,
                               bytes, out + r * stride);
    }
    return sound;
}

// Values of outlying dimensions, [count, E], in steps.
inline void residual_outliers(const MaxSimArgs& args, int64_t token, int64_t count, float* out) {
    const int64_t bytes = args.size * args.bits / 8;
    const uint8_t* packed = static_cast<const uint8_t*>(args.values) + token * bytes;
    for (int64_t e = 0; e < args.num_outliers; ++e) {
        const int64_t byte = args.outlier_columns[e] % bytes;
        const int64_t shift = 8 - args.bits * (args.outlier_columns[e] / bytes + 1);
        for (int64_t r = 0; r < count; ++r) {
            int64_t code = args.codes[token + r];
            if (code < 0 || code >= args.num_centroids) code = 0;
            const int field = packed[r * bytes + byte] >> shift & ((1 << args.bits) - 1);
            out[r * args.num_outliers + e] =
                args.outlier_rows[code * args.num_outliers + e] + args.outlier_weights[field];
        }
    }
}

inline void signed_rows(const MaxSimArgs& args, int64_t token, int64_t count, uint8_t* out) {
    const int64_t stride = row_bytes<uint8_t>(args.size);
    const uint8_t* in = static_cast<const uint8_t*>(args.values) + token * args.size;
    const Bytes offset = Bytes::set1(128);
    for (int64_t r = 0; r < count; ++r, in += args.size, out += stride)
        for (int64_t n = 0; n < args.size; n += Bytes::kCount)
            (Bytes::load(in + n, args.size - n) + offset).store(out + n);
}

// Tokens [token, token + count), those of `next` being read after them. `sound` turns false
// where a code is no centroid's or a scale is not finite. Scratch holds `scratch_bytes`.
inline Rows read_rows(const MaxSimArgs& args, int64_t token, int64_t count, Span next,
                      char* scratch, const uint8_t*, bool& sound) {
    uint8_t* out = reinterpret_cast<uint8_t*>(scratch);
    bool known = true;
    if (args.bits == 1)
        known = residual_rows<1>(args, token, count, next, out);
    else if (args.bits == 2)
        known = residual_rows<2>(args, token, count, next, out);
    else if (args.bits == 4)
        known = residual_rows<4>(args, token, count, next, out);
    else if (args.bits == 8)
        known = residual_rows<8>(args, token, count, next, out);
    else
        signed_rows(args, token, count, out);
    float* outliers = reinterpret_cast<float*>(scratch + decoded_bytes<uint8_t>(args.size));
    residual_outliers(args, token, count, outliers);
    uint32_t largest = 0;
    for (int64_t r = 0; r < count; ++r) {
        uint32_t bits;
        __builtin_memcpy(&bits, args.scales + token + r, sizeof(bits));
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    sound = sound && known && largest < 0x7f800000;
    return {scratch, row_bytes<uint8_t>(args.size), stored(args, next.first),
            args.bits ? args.bits / 2 : 4, outliers};
}

inline Rows read_rows(const MaxSimArgs& args, int64_t token, int64_t count, Span next,
                      char* scratch, const float*, bool&) {
    const int64_t size = args.size;
    if (args.dtype == Dtype::kFloat32) {
        const char* in = stored(args, token);
        return {in, size * 4, in + tile_rows(kPanelVectors) * size * 4, 4};
    }
    const Float16* in = static_cast<const Float16*>(args.values) + token * size;
    float* out = reinterpret_cast<float*>(scratch);
    for (int64_t r = 0; r < count; ++r, in += size, out += size) {
        int64_t k = 0;
        for (; k + kWidth <= size; k += kWidth) store(out + k, load(in + k));
        if (k < size) store(out + k, load(in + k, static_cast<int>(size - k)));
    }
    return {scratch, size * 4, stored(args, next.first), 2};
}

inline Rows read_rows(const MaxSimArgs& args, int64_t token, int64_t count, Span next,
                      char* scratch, const BFloat16*, bool&) {
    const int64_t bytes = args.size * 2, stride = row_bytes<BFloat16>(args.size);
    const char* in = stored(args, token);
    if (bytes == stride) return {in, stride, in + tile_rows(kPanelVectors) * stride, 4};
    for (int64_t r = 0; r < count; ++r) {  // the last unit of a row must not reach into the next
        __builtin_memset(scratch + (r + 1) * stride - 4, 0, 4);
        __builtin_memcpy(scratch + r * stride, in + r * bytes, bytes);
    }
    return {scratch, stride, stored(args, next.first), 4};
}
