// Late-interaction scores of ragged documents. Included once per instruction set, in its namespace.
//
// Document tokens are the rows of the product and query tokens its columns, so the maximum over a
// document is one vector maximum per tile and column vector, in registers: no score matrix, no
// reduction across lanes. Documents are read where they lie, once.
//
// Floor at 32 query tokens on Zen 4: the product rate (118 / 236 GFLOP/s a core for float32 /
// bfloat16), not memory; see packrank_kernels/maxsim.py.

constexpr int64_t kDocTokensPerTask = 1024;

// best[j] = max(best[j], column maxima of A B); nan[j] marks columns that met a NaN.
template <class T, int kRows, int kVectors>
__attribute__((noinline)) void max_tile(const char* a, int64_t a_stride, const uint32_t* b,
                                        int64_t units, V* best, Mask* nan) {
    V acc[kRows][kVectors];
    accumulate<T, kRows, kVectors, true>(a, a_stride, b, units, acc);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
        V highest = best[j];
        Mask bad = nan[j];
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) highest = max(acc[r][j], highest);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; r += 2)
            bad = either(bad, unordered(acc[r][j], acc[r + 1 < kRows ? r + 1 : r][j]));
        best[j] = highest;
        nan[j] = bad;
    }
}

template <class T, int kVectors, int kRows = tile_rows(kVectors)>
void max_panel(const char* a, int64_t a_stride, const uint32_t* b, int64_t units, int64_t rows,
               V* best, Mask* nan) {
    for (; rows >= kRows; rows -= kRows, a += kRows * a_stride)
        max_tile<T, kRows, kVectors>(a, a_stride, b, units, best, nan);
    if constexpr (kRows > 1)
        if (rows > 0)
            max_panel<T, kVectors, (kRows + 1) / 2>(a, a_stride, b, units, rows, best, nan);
}

// Sum over the first `count` columns of their maxima, in order.
inline float sum_columns(const V* best, const Mask* nan, int nv, int64_t count, float total) {
    float lanes[kPanelVectors * kWidth];
    for (int j = 0; j < nv; ++j)
        store(lanes + j * kWidth, select(nan[j], set1(__builtin_nanf("")), best[j]));
    for (int64_t i = 0; i < count; ++i) total += lanes[i];
    return total;
}

template <class T>
float score_document(const char* doc, int64_t tokens, int64_t stride, const uint32_t* query,
                     int64_t query_tokens, int64_t units) {
    const int64_t padded = padded_columns(query_tokens);
    float total = 0.0f;
    for (int64_t column = 0; column < padded; column += kPanelColumns) {
        const int nv = panel_vectors(column, padded);
        V best[kPanelVectors];
        Mask nan[kPanelVectors];
        for (int j = 0; j < kPanelVectors; ++j) {
            best[j] = set1(-__builtin_inff());
            nan[j] = none();
        }
        const uint32_t* b = query + column * units;
        if (nv == 1)
            max_panel<T, 1>(doc, stride, b, units, tokens, best, nan);
        else if (nv == 2)
            max_panel<T, 2>(doc, stride, b, units, tokens, best, nan);
        else
            max_panel<T, 3>(doc, stride, b, units, tokens, best, nan);
        const int64_t left = query_tokens - column;
        total = sum_columns(best, nan, nv, left < nv * kWidth ? left : nv * kWidth, total);
    }
    return total;
}

template <class T>
void maxsim_typed(const MaxSimArgs& args) {
    const int64_t units = num_units<T>(args.size);
    const int64_t words = padded_columns(args.query_tokens) * units;
    const Buffer buffer(words * sizeof(uint32_t));
    uint32_t* query = static_cast<uint32_t*>(buffer.data);
    pack_transposed(static_cast<const T*>(args.query), args.size, args.query_tokens, args.size,
                    query);
    const int64_t* starts = args.cu_seqlens;
    const int64_t tokens = starts[args.num_docs];
    const bool odd = args.size % unit_elements<T>() != 0;
    // A task owns the documents that start within its share of the tokens.
    const int64_t num_tasks = tokens / kDocTokensPerTask + 1;
    const auto first_from = [&](int64_t token) {
        int64_t low = 0, high = args.num_docs;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (starts[middle] < token)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    };
    parallel(num_tasks, [&](int64_t task) {
        const int64_t end =
            task + 1 == num_tasks ? args.num_docs : first_from((task + 1) * kDocTokensPerTask);
        for (int64_t n = first_from(task * kDocTokensPerTask); n < end; ++n) {
            const int64_t length = starts[n + 1] - starts[n];
            if (length == 0) {
                args.scores[n] = -__builtin_inff();
                continue;
            }
            int64_t stride = args.size * static_cast<int64_t>(sizeof(T));
            const char* doc = static_cast<const char*>(args.docs) + starts[n] * stride;
            if (odd) {  // the last unit of a row must not reach into the next
                char* copy = static_cast<char*>(scratch(length * units * 4));
                for (int64_t r = 0; r < length; ++r) {
                    __builtin_memset(copy + (r + 1) * units * 4 - 4, 0, 4);
                    __builtin_memcpy(copy + r * units * 4, doc + r * stride, stride);
                }
                doc = copy;
                stride = units * 4;
            }
            args.scores[n] =
                score_document<T>(doc, length, stride, query, args.query_tokens, units);
        }
    });
}

inline void maxsim(const MaxSimArgs& args) {
    return args.dtype == Dtype::kFloat32 ? maxsim_typed<float>(args) : maxsim_typed<BFloat16>(args);
}
