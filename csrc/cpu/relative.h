// Relative positions in attention: the terms that a query and a key add to their product for the
// distance between them, of DeBERTa (He et al. 2021, eq. 4), and the bias that a head has for that
// distance, of T5 (Raffel et al. 2020, section 2.1). Included once per instruction set, inside its
// namespace.
//
// Both terms are products with a row of a table, and the row hangs on i - j alone: so those of a
// few queries with all keys are one product of these queries with as many columns as there are
// distances, which is one more than keys a query. Column `origin + j - i` is that of query i and
// key j: along a query's keys the columns run on, and its term is read where it lies. A key's
// columns run back along the queries, and its term is gathered. A head's biases are a row of as
// many columns, from which a query reads its own as it reads its term.

constexpr int64_t kRelativeRows = 24;  // of a product: whole tiles of one vector

// The tables of a call, a column for every distance that it has, as panels of one vector.
template <class T>
class RelativeColumns {
  public:
    explicit RelativeColumns(const AttentionArgs& args)
        : origin(last_position(args)),
          size(args.head_size),
          units(num_units<T>(args.head_size)),
          count_(is_used(args) ? origin + longest(args.cu_seqlens_k, args.num_sequences) : 0),
          num_heads_(args.num_heads),
          has_keys_(args.position_keys != nullptr),
          has_queries_(args.position_queries != nullptr),
          bias_stride_(args.position_bias == nullptr ? 0 : count_ + kWidth),
          buffer_((has_keys_ + has_queries_) * num_heads_ * words() * sizeof(uint32_t)),
          biases_(num_heads_ * bias_stride_ * sizeof(float)) {
        if (bias_stride_ > 0) {
            const int32_t* rows = args.position_rows + args.num_positions - 1;
            float* row = static_cast<float*>(biases_.data);
            for (int64_t head = 0; head < num_heads_; ++head, row += bias_stride_)
                for (int64_t c = 0; c < count_; ++c)
                    row[c] = args.position_bias[rows[origin - c] * num_heads_ + head];
        }
        if (!multiplies(args)) return;
        const void* const tables[] = {has_keys_ ? args.position_keys : args.position_queries,
                                      args.position_queries};
        parallel((has_keys_ + has_queries_) * num_heads_, [&](int64_t task) {
            const int64_t head = task % num_heads_;
            const T* table = static_cast<const T*>(tables[task / num_heads_]) + head * size;
            pack(table, args.position_rows + args.num_positions - 1, panels(task));
        });
    }

    // Whether distances have terms, which are products.
    static bool multiplies(const AttentionArgs& args) {
        return args.position_keys != nullptr || args.position_queries != nullptr;
    }

    // Of a head, the biases of the query at a position: for the key at 0, and on from there; those
    // past the last key are any. Null where there are none.
    const float* bias(int64_t head, int64_t position) const {
        if (bias_stride_ == 0) return nullptr;
        return static_cast<const float*>(biases_.data) + head * bias_stride_ + origin - position;
    }

    const uint32_t* keys(int64_t head) const { return has_keys_ ? panels(head) : nullptr; }
    const uint32_t* queries(int64_t head) const {
        return has_queries_ ? panels(has_keys_ * num_heads_ + head) : nullptr;
    }

    // Rows of A times columns [low, high), and those beside them in their vectors; returns the
    // first column of `out`.
    int64_t multiply(const char* a, int64_t a_stride, const uint32_t* panels, int64_t low,
                     int64_t high, float* out, int64_t out_stride, int64_t rows) const {
        const int64_t from = low / kWidth * kWidth;
        for (int64_t c = from; c < high; c += kWidth)
            product<T>(1, a, a_stride, panels + c * units, units, out + (c - from), out_stride,
                       rows);
        return from;
    }

    const int64_t origin, size, units;

  private:
    static bool is_used(const AttentionArgs& args) {
        return multiplies(args) || args.position_bias != nullptr;
    }
    static int64_t last_position(const AttentionArgs& args) {
        const int32_t* starts = args.causal ? args.cu_seqlens_k : args.cu_seqlens_q;
        return longest(starts, args.num_sequences) - 1;
    }
    static int64_t longest(const int32_t* starts, int64_t count) {
        int64_t most = 1;
        for (int64_t n = 0; n < count; ++n)
            if (starts[n + 1] - starts[n] > most) most = starts[n + 1] - starts[n];
        return most;
    }

    int64_t words() const { return padded_columns(count_) * units; }
    uint32_t* panels(int64_t place) const {
        return static_cast<uint32_t*>(buffer_.data) + place * words();
    }

    // rows: of distance 0.
    void pack(const T* table, const int32_t* rows, uint32_t* out) const {
        T* block = static_cast<T*>(scratch(kWidth * size * sizeof(T)));
        for (int64_t c = 0; c < count_; c += kWidth) {
            const int64_t n = count_ - c < kWidth ? count_ - c : kWidth;
            for (int64_t i = 0; i < n; ++i)
                __builtin_memcpy(block + i * size,
                                 table + rows[origin - (c + i)] * num_heads_ * size,
                                 size * sizeof(T));
            pack_transposed(block, size, n, size, out + c * units);
        }
    }

    const int64_t count_, num_heads_;
    const bool has_keys_, has_queries_;
    const int64_t bias_stride_;
    const Buffer buffer_, biases_;
};

// The terms of some queries, [first, last), of one head with all keys of their sequence.
template <class T>
class RelativeTerms {
  public:
    RelativeTerms(const RelativeColumns<T>& columns, int64_t head, int64_t first, int64_t last,
                  int64_t num_keys)
        : columns_(columns),
          keys_(columns.keys(head)),
          queries_(columns.queries(head)),
          first_(first),
          last_(last),
          num_keys_(num_keys),
          key_stride_(queries_ ? padded_columns(last - first + kRelativeRows) + kWidth : 0),
          query_stride_(keys_ ? padded_columns(num_keys + kRelativeRows) + 2 * kWidth : 0) {}

    // Of memory that `use` wants.
    int64_t words() const {
        return num_keys_ * key_stride_ + kRelativeRows * query_stride_ + padded_columns(num_keys_) +
               kRelativeRows * columns_.units;
    }

    void use(uint32_t* memory) {
        of_keys_ = reinterpret_cast<float*>(memory);
        of_queries_ = of_keys_ + num_keys_ * key_stride_;
        places_ = reinterpret_cast<int32_t*>(of_queries_ + kRelativeRows * query_stride_);
        block_ = reinterpret_cast<char*>(places_ + padded_columns(num_keys_));
    }

    // The keys' terms of all queries. keys: [num_keys, size].
    void multiply_keys(const T* keys, int64_t stride) {
        if (queries_ == nullptr) return;
        const int64_t bytes = columns_.units * 4;
        for (int64_t j = 0; j < num_keys_; j += kRelativeRows) {
            const int64_t n = num_keys_ - j < kRelativeRows ? num_keys_ - j : kRelativeRows;
            for (int64_t r = 0; r < n; ++r) {
                __builtin_memset(block_ + (r + 1) * bytes - 4, 0, 4);
                __builtin_memcpy(block_ + r * bytes, keys + (j + r) * stride,
                                 columns_.size * sizeof(T));
            }
            const int64_t low = columns_.origin + j - (last_ - 1);
            const int64_t high = columns_.origin + j + n - first_;
            const int64_t from = columns_.multiply(block_, bytes, queries_, low, high,
                                                   of_keys_ + j * key_stride_, key_stride_, n);
            for (int64_t r = 0; r < n; ++r)
                places_[j + r] = static_cast<int32_t>((j + r) * key_stride_ + low + r - from);
        }
        for (int64_t j = num_keys_; j < padded_columns(num_keys_); ++j) places_[j] = 0;
    }

    // scores[r, j] += the terms of query begin + r and key j, of queries [begin, end), at most
    // kRelativeRows, and whole vectors of keys: past the last one anything is added.
    void add_to(float* scores, int64_t stride, const char* queries, int64_t query_bytes,
                int64_t begin, int64_t end) const {
        const int64_t rows = end - begin, width = padded_columns(num_keys_);
        if (keys_ != nullptr) {
            const int64_t low = columns_.origin - (end - 1);
            const int64_t high = columns_.origin + num_keys_ - begin;
            const int64_t from = columns_.multiply(queries, query_bytes, keys_, low, high,
                                                   of_queries_, query_stride_, rows);
            for (int64_t r = 0; r < rows; ++r) {
                const float* term = of_queries_ + r * query_stride_ + (rows - 1 - r) + low - from;
                float* row = scores + r * stride;
                for (int64_t j = 0; j < width; j += kWidth)
                    store(row + j, add(load(row + j), load(term + j)));
            }
        }
        if (queries_ == nullptr) return;
        for (int64_t j = 0; j < width; j += kWidth)
            for (int64_t r = 0; r < rows; ++r) {
                float* row = scores + r * stride + j;
                const float* terms = of_keys_ + (last_ - 1 - (begin + r));
                store(row, add(load(row), gather(terms, places_ + j)));
            }
    }

  private:
    const RelativeColumns<T>& columns_;
    const uint32_t *keys_, *queries_;
    const int64_t first_, last_, num_keys_, key_stride_, query_stride_;
    float *of_keys_ = nullptr, *of_queries_ = nullptr;
    int32_t* places_ = nullptr;
    char* block_ = nullptr;
};
