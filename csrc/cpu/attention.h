// Attention over packed sequences. Included once per instruction set, inside its namespace.
//
// A task owns one head of keys and some rows of queries that read it: a row is one query under one
// of the heads that share those keys, all heads of a query in a run. It packs the keys and values
// that these rows can see (keys transposed), then takes the rows kQueryRows at a time:
// S = Q Kᵀ for all keys, softmax over whole rows, O = P V. Whole rows need no running maximum and
// stay in the second-level cache up to 8192 keys (24 x 8192 x 4 bytes = 786 KB).
//
// A prefix is packed before the sequence's own keys, as if it lay there, and the first key that a
// task packs is at a multiple of kWidth: so a key adds to the same lane of its row's sum and to the
// same unit of P V whatever the task, and a shared prefix gives the bits of an own one.
//
// Keys and values in pages are read page by page (keys.h says who writes them). Where one block of
// rows is all that a task has, as where a sequence grows by a token, it packs them a panel at a
// time and multiplies that while it is in the first-level cache: they are read once, from wherever
// they lie, and never written as a whole. The chains of additions, and so the bits, are the same.
//
// Terms of relative positions are added to S before its softmax, by relative.h; biases of distances
// once it is scaled.
//
// The products use the tiles of gemm.h. What is left is one exponential per query, key and head:
// about 15 instructions per vector, against D products per vector of keys in each of S and O.

constexpr int64_t kQueryRowsPerTask = 240;  // a multiple of kQueryRows
constexpr int64_t kQueryRows = 24;          // whole tiles of most heights

// row = scale * row + bias
inline void bias_row(float* row, int64_t columns, float scale, const float* bias) {
    const V s = set1(scale);
    for (int64_t i = 0; i < columns; i += kWidth)
        store(row + i, fma(load(row + i), s, load(bias + i)));
}

// row = softcap * tanh(scale * row)
inline void cap_row(float* row, int64_t columns, float scale, float softcap) {
    const V s = set1(scale), c = set1(softcap);
    for (int64_t i = 0; i < columns; i += kWidth)
        store(row + i, mul(c, tanh(mul(load(row + i), s))));
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
    HeadTask(const AttentionArgs& args, const RelativeColumns<T>& columns, int64_t sequence,
             int64_t key_head, int64_t first_row, int64_t last_row)
        : args_(args),
          group_(args.num_heads / args.num_key_heads),
          key_head_(key_head),
          size_(args.head_size),
          units_(num_units<T>(args.head_size)),
          first_row_(first_row),
          last_row_(last_row),
          columns_(columns),
          relative_(columns, key_head, first_row, last_row,
                    args.cu_seqlens_k[sequence + 1] - args.cu_seqlens_k[sequence]) {
        query_start_ = args.cu_seqlens_q[sequence];
        own_start_ = args.cu_seqlens_k[sequence];
        const int64_t num_queries = args.cu_seqlens_q[sequence + 1] - query_start_;
        const int64_t prefix = args.prefix_of == nullptr ? -1 : args.prefix_of[sequence];
        if (prefix >= 0) {
            prefix_start_ = args.cu_seqlens_k[prefix];
            prefix_keys_ = args.cu_seqlens_k[prefix + 1] - prefix_start_;
        }
        sequence_keys_ = prefix_keys_ + args.cu_seqlens_k[sequence + 1] - own_start_;
        if (is_paged()) {
            sequence_keys_ = args.pages.lengths[sequence];
            pages_ = args.pages.table + sequence * args.pages.most;
            streams_ = last_row - first_row <= kQueryRows;
        }
        first_position_ = args.causal ? sequence_keys_ - num_queries : 0;
        // Keys that any of the task's rows sees; the others are not even packed.
        first_key_ = begin_of(first_row_) / kWidth * kWidth;
        num_keys_ = max_of(0, end_of(last_row_ - 1) - first_key_);
    }

    void run() {
        if (num_keys_ == 0) {
            for (int64_t row = first_row_; row < last_row_; ++row)
                __builtin_memset(output_row(row), 0, size_ * sizeof(T));
            return;
        }
        allocate();
        if (!streams_) pack();
        for (int64_t row = first_row_; row < last_row_; row += kQueryRows)
            block(row, min_of(row + kQueryRows, last_row_));
    }

  private:
    struct Rows {
        const T* data;
        int64_t stride;
    };

    bool is_paged() const { return args_.pages.table != nullptr; }

    // Then a task's rows are its queries, and it sees all keys of the sequence.
    bool is_relative() const { return RelativeColumns<T>::multiplies(args_); }

    static int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
    static int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

    // Negative where causal queries outnumber the keys: such a row sees nothing.
    int64_t position_of(int64_t row) const { return first_position_ + row / group_; }

    // A row sees the keys at positions [begin_of(row), end_of(row)).
    int64_t begin_of(int64_t row) const {
        return args_.window < 0 ? 0 : max_of(0, position_of(row) - args_.window);
    }
    int64_t end_of(int64_t row) const {
        const int64_t position = position_of(row);
        if (args_.causal) return position + 1;
        return args_.window < 0 ? sequence_keys_
                                : min_of(sequence_keys_, position + args_.window + 1);
    }

    static const T* row_of(const Strided& x, int64_t token, int64_t head) {
        return static_cast<const T*>(x.data) + token * x.token_stride + head * x.head_stride;
    }
    const T* key_row(const Strided& x, int64_t position) const {
        const int64_t token = position < prefix_keys_ ? prefix_start_ + position
                                                      : own_start_ + position - prefix_keys_;
        return row_of(x, token, key_head_);
    }
    int64_t token_of(int64_t row) const { return query_start_ + row / group_; }
    int64_t head_of(int64_t row) const { return key_head_ * group_ + row % group_; }
    T* output_row(int64_t row) const {
        const int64_t index = token_of(row) * args_.num_heads + head_of(row);
        return static_cast<T*>(args_.out) + index * size_;
    }
    void rotate(const T* x, int64_t position, T* out) const {
        const int64_t angle = position * (size_ / 2);
        rotate_row(x, args_.cos + angle, args_.sin + angle, size_, out);
    }

    void allocate() {
        const int64_t keys = padded_columns(num_keys_), values = padded_columns(size_);
        const bool collects = args_.cos != nullptr || prefix_keys_ > 0 || is_paged();
        const int64_t packed = streams_ ? min_of(keys, kPanelColumns) : keys;
        const int64_t words[] = {
            packed * units_,                               // keys_
            num_units<T>(packed) * values,                 // values_
            kQueryRows * units_,                           // queries_
            kQueryRows * keys,                             // scores_
            sizeof(T) == 2 ? kQueryRows * (keys / 2) : 0,  // weights_
            kQueryRows * values,                           // sums_
            collects ? num_units<T>(size_ * packed) : 0,   // collected_
            is_relative() ? relative_.words() : 0,
        };
        int64_t total = 0;
        for (int64_t w : words) total += (w + 15) / 16 * 16;
        uint32_t* next = static_cast<uint32_t*>(scratch(total * sizeof(uint32_t)));
        uint32_t* parts[8];
        for (int i = 0; i < 8; ++i) {
            parts[i] = next;
            next += (words[i] + 15) / 16 * 16;
        }
        keys_ = parts[0];
        values_ = parts[1];
        queries_ = parts[2];
        scores_ = reinterpret_cast<float*>(parts[3]);
        weights_ = reinterpret_cast<T*>(parts[sizeof(T) == 2 ? 4 : 3]);
        sums_ = reinterpret_cast<float*>(parts[5]);
        collected_ = reinterpret_cast<T*>(parts[6]);
        if (is_relative()) relative_.use(parts[7]);
        score_stride_ = keys;
    }

    // Rows of x from key `begin` of the task's on: in place where they lie in one run as they are.
    Rows collect(const Strided& x, bool rotates, int64_t begin, int64_t count) {
        const int64_t first = first_key_ + begin;
        if (is_paged()) {
            gather_rows(args_.pages, pages_, x, key_head_, first, count, size_, collected_);
            return {collected_, size_};
        }
        if (!rotates && (first >= prefix_keys_ || first + count <= prefix_keys_))
            return {key_row(x, first), x.token_stride};
        for (int64_t j = 0; j < count; ++j) {
            const T* row = key_row(x, first + j);
            if (rotates)
                rotate(row, first + j, collected_ + j * size_);
            else
                __builtin_memcpy(collected_ + j * size_, row, size_ * sizeof(T));
        }
        return {collected_, size_};
    }

    void pack() {
        const Rows keys = pack_keys(0, num_keys_);
        if (is_relative()) relative_.multiply_keys(keys.data, keys.stride);
        pack_values_of(0, num_keys_);
    }
    Rows pack_keys(int64_t begin, int64_t count) {
        const Rows keys = collect(args_.k, args_.cos != nullptr && !is_paged(), begin, count);
        pack_transposed(keys.data, keys.stride, count, size_, keys_);
        return keys;
    }
    void pack_values_of(int64_t begin, int64_t count) {
        const Rows values = collect(args_.v, false, begin, count);
        pack_values(values.data, values.stride, count, size_, values_);
    }

    // Rows [begin, end), at most kQueryRows.
    void block(int64_t begin, int64_t end) {
        const int64_t rows = end - begin, query_bytes = units_ * 4;
        char* queries = reinterpret_cast<char*>(queries_);
        for (int64_t r = 0; r < rows; ++r) {
            const T* q = row_of(args_.q, token_of(begin + r), head_of(begin + r));
            T* copy = reinterpret_cast<T*>(queries + r * query_bytes);
            __builtin_memset(queries + (r + 1) * query_bytes - 4, 0, 4);
            if (args_.cos == nullptr)
                __builtin_memcpy(copy, q, size_ * sizeof(T));
            else
                rotate(q, max_of(0, position_of(begin + r)), copy);
        }
        // Whole panels of keys that cover what these rows see, then whole vectors.
        const int64_t padded = padded_columns(num_keys_);
        const int64_t seen = max_of(0, end_of(end - 1) - first_key_);
        const int64_t to = padded_columns(seen);
        const int64_t unseen = max_of(0, begin_of(begin) - first_key_);
        const int64_t from = min_of(to, unseen / kPanelColumns * kPanelColumns);
        for (int64_t column = from; column < to; column += kPanelColumns) {
            if (streams_) pack_keys(column, min_of(kPanelColumns, num_keys_ - column));
            const uint32_t* keys = streams_ ? keys_ : keys_ + column * units_;
            product<T>(panel_vectors(column, padded), queries, query_bytes, keys, units_,
                       scores_ + column, score_stride_, rows);
        }
        if (is_relative())
            relative_.add_to(scores_, score_stride_, queries, query_bytes, begin, end);
        const float log2_e = 1.44269504f;  // e^x = 2^(x / ln 2)
        const bool is_capped = args_.softcap > 0.0f;
        float inverse[kQueryRows];
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t low = min_of(to, max_of(from, begin_of(begin + r) - first_key_));
            const int64_t high = max_of(low, end_of(begin + r) - first_key_);
            float* row = scores_ + r * score_stride_ + from;
            T* weights = weights_ + r * score_stride_ + from;
            float scale = args_.scale * log2_e;
            if (is_capped) {
                cap_row(row, to - from, args_.scale / args_.softcap, args_.softcap * log2_e);
                scale = 1.0f;
            }
            if (const float* bias = columns_.bias(key_head_, max_of(0, position_of(begin + r)))) {
                bias_row(row, to - from, args_.scale, bias + first_key_ + from);
                scale = log2_e;
            }
            const float total =
                softmax_row(row, low - from, high - from, to - from, scale, weights);
            inverse[r] = high > low ? 1.0f / total : 0.0f;
            if (high <= low) __builtin_memset(weights, 0, (to - from) * sizeof(T));
        }
        const int64_t last = min_of(num_keys_, to);
        if (streams_) {
            for (int64_t key = from; key < last; key += kPanelColumns) {
                const int64_t count = min_of(kPanelColumns, last - key);
                pack_values_of(key, count);
                add_values(key, count, 0, count, rows, key > from);
            }
        } else {
            add_values(from, last - from, from, num_keys_, rows, false);
        }
        const int64_t columns = padded_columns(size_);
        for (int64_t r = 0; r < rows; ++r) {
            float* row = sums_ + r * columns;
            const V factor = set1(inverse[r]);
            for (int64_t c = 0; c < columns; c += kWidth)
                store(row + c, mul(load(row + c), factor));
            write_row(row, output_row(begin + r), size_);
        }
    }

    // sums_ (+)= P V over some keys, which are from key `place` on of `packed` packed ones.
    void add_values(int64_t key, int64_t count, int64_t place, int64_t packed, int64_t rows,
                    bool adds) {
        const int64_t units = num_units<T>(count), first_unit = place / unit_elements<T>();
        const int64_t all = num_units<T>(packed), columns = padded_columns(size_);
        for (int64_t column = 0; column < columns; column += kValueVectors * kWidth) {
            const int64_t width = min_of(columns - column, kValueVectors * kWidth);
            product<T>(static_cast<int>(width / kWidth),
                       reinterpret_cast<const char*>(weights_ + key), score_stride_ * sizeof(T),
                       values_ + column * all + first_unit * width, units, sums_ + column, columns,
                       rows, adds);
        }
    }

    const AttentionArgs& args_;
    const int64_t group_, key_head_, size_, units_, first_row_, last_row_;
    const RelativeColumns<T>& columns_;
    RelativeTerms<T> relative_;
    int64_t query_start_, own_start_, prefix_start_ = 0, prefix_keys_ = 0, sequence_keys_;
    int64_t first_position_, first_key_, num_keys_;
    const int32_t* pages_ = nullptr;
    bool streams_ = false;  // keys and values are packed as they are multiplied
    uint32_t *keys_ = nullptr, *values_ = nullptr, *queries_ = nullptr;
    float *scores_ = nullptr, *sums_ = nullptr;
    T *weights_ = nullptr, *collected_ = nullptr;
    int64_t score_stride_ = 0;
};

template <class T>
void attention_typed(const AttentionArgs& args) {
    struct Task {
        int64_t sequence, first_row, last_row;
    };
    const RelativeColumns<T> columns(args);
    const int64_t group = args.num_heads / args.num_key_heads;
    const auto rows_of = [&](int64_t n) {
        return (args.cu_seqlens_q[n + 1] - args.cu_seqlens_q[n]) * group;
    };
    const auto tasks_of = [&](int64_t n) {
        return (rows_of(n) + kQueryRowsPerTask - 1) / kQueryRowsPerTask;
    };
    int64_t count = 0;
    for (int64_t n = 0; n < args.num_sequences; ++n) count += tasks_of(n);
    const Buffer buffer(count * sizeof(Task));
    Task* tasks = static_cast<Task*>(buffer.data);
    count = 0;
    for (int64_t n = 0; n < args.num_sequences; ++n) {
        const int64_t rows = rows_of(n);
        int64_t each = kQueryRowsPerTask;
        // Where a task costs columns beside its own, alike ones waste least.
        if (RelativeColumns<T>::multiplies(args) && rows > each)
            each = (rows + tasks_of(n) * kQueryRows - 1) / (tasks_of(n) * kQueryRows) * kQueryRows;
        for (int64_t row = 0; row < rows; row += each)
            tasks[count++] = {n, row, row + each < rows ? row + each : rows};
    }
    parallel(count * args.num_key_heads, [&](int64_t index) {
        const Task& task = tasks[index / args.num_key_heads];
        HeadTask<T>(args, columns, task.sequence, index % args.num_key_heads, task.first_row,
                    task.last_row)
            .run();
    });
}

inline void attention(const AttentionArgs& args) {
    return args.dtype == Dtype::kFloat32 ? attention_typed<float>(args)
                                         : attention_typed<BFloat16>(args);
}

template <class T>
void paged_attention_typed(const PagedAttentionArgs& args) {
    const int64_t heads = args.attention.num_key_heads;
    parallel(args.attention.num_sequences * heads,
             [&](int64_t index) { write_to_pages<T>(args, index / heads, index % heads); });
    attention_typed<T>(args.attention);
}

inline void paged_attention(const PagedAttentionArgs& args) {
    return args.attention.dtype == Dtype::kFloat32 ? paged_attention_typed<float>(args)
                                                   : paged_attention_typed<BFloat16>(args);
}
