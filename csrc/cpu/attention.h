// Attention over packed sequences. Included once per instruction set, inside its namespace.
//
// A task owns one head of up to kQueriesPerTask queries of one sequence. It packs the keys and
// values that those queries can see (keys transposed), then takes the queries kQueryRows at a time:
// S = Q Kᵀ for all keys, softmax over whole rows, O = P V. Whole rows need no running maximum and
// stay in the second-level cache up to 8192 keys (24 x 8192 x 4 bytes = 786 KB).
//
// The products use the tiles of gemm.h. What is left is one exponential per query, key and head:
// about 15 instructions per vector, against D products per vector of keys in each of S and O.

constexpr int64_t kQueriesPerTask = 240;  // a multiple of kQueryRows
constexpr int64_t kQueryRows = 24;        // whole tiles of most heights
constexpr int kValueVectors = kRegisters == 32 ? 4 : 3;

// Row i of a head, at its position, as `size` elements of T.
template <class T>
void rotate_row(const T* x, const float* cos, const float* sin, int64_t size, T* out) {
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; i += kWidth) {
        const int n = half - i < kWidth ? static_cast<int>(half - i) : kWidth;
        const bool whole = n == kWidth;
        const V x1 = whole ? load(x + i) : load(x + i, n);
        const V x2 = whole ? load(x + half + i) : load(x + half + i, n);
        const V c = whole ? load(cos + i) : load(cos + i, n);
        const V s = whole ? load(sin + i) : load(sin + i, n);
        const V y1 = sub(mul(x1, c), mul(x2, s)), y2 = add(mul(x2, c), mul(x1, s));
        if (whole) {
            store(out + i, y1);
            store(out + half + i, y2);
        } else {
            store(out + i, y1, n);
            store(out + half + i, y2, n);
        }
    }
}

// Values [rows, size] as panels of the product P V: unit u holds rows u (float) or 2u, 2u + 1.
template <class T>
void pack_values(const T* source, int64_t stride, int64_t rows, int64_t size, uint32_t* packed) {
    constexpr int64_t per_unit = unit_elements<T>();
    const int64_t units = num_units<T>(rows), padded = padded_columns(size);
    for (int64_t column = 0; column < padded; column += kValueVectors * kWidth) {
        const int64_t left = padded - column;
        const int64_t width = left < kValueVectors * kWidth ? left : kValueVectors * kWidth;
        for (int64_t u = 0; u < units; ++u)
            for (int64_t c = column; c < column + width; c += kWidth) {
                uint32_t* out = packed + column * units + u * width + (c - column);
                const T* row = source + u * per_unit * stride + c;
                const bool whole = c + kWidth <= size && (u + 1) * per_unit <= rows;
                if constexpr (per_unit == 1) {
                    if (whole) {
                        store(reinterpret_cast<float*>(out), load(row));
                        continue;
                    }
                } else if (whole) {
                    interleave(row, row + stride, out);
                    continue;
                }
                T block[kWidth * per_unit] = {};
                for (int64_t r = 0; r < per_unit && u * per_unit + r < rows; ++r)
                    for (int64_t i = 0; i < kWidth && c + i < size; ++i)
                        block[i * per_unit + r] = row[r * stride + i];
                __builtin_memcpy(out, block, sizeof(block));
            }
    }
}

// weights[begin .. end) = 2^(scale * (row - largest)), 0 elsewhere in [0, columns); returns the sum
// before rounding to T. columns is a multiple of kWidth; weights may be row itself.
template <class T>
float softmax_row(float* row, int64_t begin, int64_t end, int64_t columns, float scale,
                  T* weights) {
    for (int64_t i = 0; i < begin; ++i) row[i] = -__builtin_inff();
    for (int64_t i = end; i < columns; ++i) row[i] = -__builtin_inff();
    V highest = set1(-__builtin_inff());
    for (int64_t i = 0; i < columns; i += kWidth) highest = max(load(row + i), highest);
    const V s = set1(scale), m = set1(largest(highest));
    V total = set1(0.0f);
    for (int64_t i = 0; i < columns; i += kWidth) {
        const V y = exp2(mul(sub(load(row + i), m), s));
        total = add(total, y);
        store(weights + i, y);
    }
    return sum(total);
}

template <class T>
class HeadTask {
  public:
    HeadTask(const AttentionArgs& args, int64_t sequence, int64_t head, int64_t first_query)
        : args_(args), head_(head), size_(args.head_size), units_(num_units<T>(args.head_size)) {
        query_start_ = args.cu_seqlens_q[sequence];
        key_start_ = args.cu_seqlens_k[sequence];
        const int64_t num_queries = args.cu_seqlens_q[sequence + 1] - query_start_;
        sequence_keys_ = args.cu_seqlens_k[sequence + 1] - key_start_;
        first_query_ = first_query;
        last_query_ = min_of(first_query + kQueriesPerTask, num_queries);
        // Keys that any of the task's queries sees; the others are not even packed.
        first_key_ = begin_of(first_query_);
        num_keys_ = end_of(last_query_ - 1) - first_key_;
        if (num_keys_ < 0) num_keys_ = 0;
    }

    void run() {
        if (num_keys_ == 0) {
            for (int64_t i = first_query_; i < last_query_; ++i)
                __builtin_memset(output_row(i), 0, size_ * sizeof(T));
            return;
        }
        allocate();
        pack();
        for (int64_t i = first_query_; i < last_query_; i += kQueryRows)
            block(i, min_of(i + kQueryRows, last_query_));
    }

  private:
    static int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
    static int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

    // Query i sees the keys [begin_of(i), end_of(i)) of the sequence.
    int64_t begin_of(int64_t i) const { return args_.window < 0 ? 0 : max_of(0, i - args_.window); }
    int64_t end_of(int64_t i) const {
        return args_.window < 0 ? sequence_keys_ : min_of(sequence_keys_, i + args_.window + 1);
    }

    const T* row_of(const Strided& x, int64_t token) const {
        return static_cast<const T*>(x.data) + token * x.token_stride + head_ * x.head_stride;
    }
    T* output_row(int64_t i) const {
        return static_cast<T*>(args_.out) + ((query_start_ + i) * args_.num_heads + head_) * size_;
    }

    void allocate() {
        const int64_t keys = padded_columns(num_keys_), values = padded_columns(size_);
        const int64_t words[] = {
            keys * units_,                                               // keys_
            num_units<T>(num_keys_) * values,                            // values_
            kQueryRows * units_,                                         // queries_
            kQueryRows * keys,                                           // scores_
            sizeof(T) == 2 ? kQueryRows * (keys / 2) : 0,                // weights_
            kQueryRows * values,                                         // sums_
            args_.cos == nullptr ? 0 : num_units<T>(size_) * num_keys_,  // rotated_
        };
        int64_t total = 0;
        for (int64_t w : words) total += (w + 15) / 16 * 16;
        uint32_t* next = static_cast<uint32_t*>(scratch(total * sizeof(uint32_t)));
        uint32_t* parts[7];
        for (int i = 0; i < 7; ++i) {
            parts[i] = next;
            next += (words[i] + 15) / 16 * 16;
        }
        keys_ = parts[0];
        values_ = parts[1];
        queries_ = parts[2];
        scores_ = reinterpret_cast<float*>(parts[3]);
        weights_ = reinterpret_cast<T*>(parts[sizeof(T) == 2 ? 4 : 3]);
        sums_ = reinterpret_cast<float*>(parts[5]);
        rotated_ = reinterpret_cast<T*>(parts[6]);
        score_stride_ = keys;
    }

    void pack() {
        const int64_t token = key_start_ + first_key_;
        const T* keys = row_of(args_.k, token);
        int64_t stride = args_.k.token_stride;
        if (args_.cos != nullptr) {
            const int64_t half = size_ / 2;
            for (int64_t j = 0; j < num_keys_; ++j) {
                const int64_t angle = (first_key_ + j) * half;
                rotate_row(keys + j * stride, args_.cos + angle, args_.sin + angle, size_,
                           rotated_ + j * size_);
            }
            keys = rotated_;
            stride = size_;
        }
        pack_transposed(keys, stride, num_keys_, size_, keys_);
        pack_values(row_of(args_.v, token), args_.v.token_stride, num_keys_, size_, values_);
    }

    // Queries [begin, end), at most kQueryRows.
    void block(int64_t begin, int64_t end) {
        const int64_t rows = end - begin, query_bytes = units_ * 4, half = size_ / 2;
        char* queries = reinterpret_cast<char*>(queries_);
        for (int64_t r = 0; r < rows; ++r) {
            const T* q = row_of(args_.q, query_start_ + begin + r);
            T* copy = reinterpret_cast<T*>(queries + r * query_bytes);
            __builtin_memset(queries + (r + 1) * query_bytes - 4, 0, 4);
            if (args_.cos == nullptr)
                __builtin_memcpy(copy, q, size_ * sizeof(T));
            else
                rotate_row(q, args_.cos + (begin + r) * half, args_.sin + (begin + r) * half, size_,
                           copy);
        }
        // Whole panels of keys that cover what these queries see.
        const int64_t padded = padded_columns(num_keys_);
        const int64_t seen = max_of(0, end_of(end - 1) - first_key_);
        const int64_t to =
            min_of(padded, (seen + kPanelColumns - 1) / kPanelColumns * kPanelColumns);
        const int64_t unseen = max_of(0, begin_of(begin) - first_key_);
        const int64_t from = min_of(to, unseen / kPanelColumns * kPanelColumns);
        for (int64_t column = from; column < to; column += kPanelColumns)
            product<T>(panel_vectors(column, padded), queries, query_bytes, keys_ + column * units_,
                       units_, scores_ + column, score_stride_, rows);
        const float scale = args_.scale * 1.44269504f;  // e^x = 2^(x / ln 2)
        float inverse[kQueryRows];
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t low = min_of(to, max_of(from, begin_of(begin + r) - first_key_));
            const int64_t high = max_of(low, end_of(begin + r) - first_key_);
            float* row = scores_ + r * score_stride_;
            T* weights = weights_ + r * score_stride_ + from;
            const float total =
                softmax_row(row + from, low - from, high - from, to - from, scale, weights);
            inverse[r] = high > low ? 1.0f / total : 0.0f;
            if (high <= low) __builtin_memset(weights, 0, (to - from) * sizeof(T));
        }
        const int64_t first_unit = from / unit_elements<T>();
        const int64_t all = num_units<T>(num_keys_);
        const int64_t units = min_of(all, to / unit_elements<T>()) - first_unit;
        const int64_t columns = padded_columns(size_);
        for (int64_t column = 0; column < columns; column += kValueVectors * kWidth) {
            const int64_t width = min_of(columns - column, kValueVectors * kWidth);
            product<T>(static_cast<int>(width / kWidth),
                       reinterpret_cast<const char*>(weights_ + from), score_stride_ * sizeof(T),
                       values_ + column * all + first_unit * width, units, sums_ + column, columns,
                       rows);
        }
        for (int64_t r = 0; r < rows; ++r) {
            float* row = sums_ + r * columns;
            const V factor = set1(inverse[r]);
            for (int64_t c = 0; c < columns; c += kWidth)
                store(row + c, mul(load(row + c), factor));
            write_row(row, output_row(begin + r), size_);
        }
    }

    const AttentionArgs& args_;
    const int64_t head_, size_, units_;
    int64_t query_start_, key_start_, sequence_keys_;
    int64_t first_query_, last_query_, first_key_, num_keys_;
    uint32_t *keys_ = nullptr, *values_ = nullptr, *queries_ = nullptr;
    float *scores_ = nullptr, *sums_ = nullptr;
    T *weights_ = nullptr, *rotated_ = nullptr;
    int64_t score_stride_ = 0;
};

template <class T>
void attention_typed(const AttentionArgs& args) {
    struct Task {
        int32_t sequence, first_query;
    };
    int64_t count = 0;
    for (int64_t n = 0; n < args.num_sequences; ++n)
        count += (args.cu_seqlens_q[n + 1] - args.cu_seqlens_q[n] + kQueriesPerTask - 1) /
                 kQueriesPerTask;
    const Buffer buffer(count * sizeof(Task));
    Task* tasks = static_cast<Task*>(buffer.data);
    count = 0;
    for (int64_t n = 0; n < args.num_sequences; ++n)
        for (int32_t i = 0; i < args.cu_seqlens_q[n + 1] - args.cu_seqlens_q[n];
             i += kQueriesPerTask)
            tasks[count++] = {static_cast<int32_t>(n), i};
    parallel(count * args.num_heads, [&](int64_t index) {
        const Task& task = tasks[index / args.num_heads];
        HeadTask<T>(args, task.sequence, index % args.num_heads, task.first_query).run();
    });
}

inline void attention(const AttentionArgs& args) {
    return args.dtype == Dtype::kFloat32 ? attention_typed<float>(args)
                                         : attention_typed<BFloat16>(args);
}
