// Late-interaction scores of ragged documents. Included once per instruction set, in its namespace.
//
// Document tokens are the rows of the product and query tokens its columns, so the maximum over a
// document is one vector maximum per tile and column vector, in registers: no score matrix, no
// reduction across lanes. In a call without owners all queries share one read and one
// decode of a document.
//
// Floor at 32 query tokens on Zen 4: the product rate (118 GFLOP/s a core for float32, 236 for
// bfloat16, 473 for bytes), not memory. Decoding a residual takes some 15 to 30 instructions a
// token, its products 64.

constexpr int64_t kDocTokensPerTask = 1024;
constexpr int kLanes = 32;  // of the sum over query tokens

// Query tokens as columns, those of each query in whole vectors.
struct Columns {
    int64_t count;           // with the padding
    const uint32_t* panels;  // of all of them
    const int32_t* bias;     // [count], integers only: -128 * sum of a column
    const float* outliers;   // [E, stride], integers only
    int64_t stride;
};

// Outlying dimensions of a block's rows [., count] and of columns [count, stride].
struct Outliers {
    const float* rows;
    const float* columns;
    int64_t count, stride;
};

// Maxima so far, by column.
struct Maxima {
    V* best;
    Mask* nan;  // where a NaN was met; floats only
};

// best[j] = max(best[j], column maxima); nan[j] marks columns that met a NaN.
template <class T, int kRows, int kVectors>
__attribute__((noinline)) void max_tile(Rows rows, const float* scales, const uint32_t* panel,
                                        const int32_t* bias, Outliers outliers, int64_t units,
                                        Maxima maxima) {
    typename Product<T>::Sum acc[kRows][kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            if constexpr (sizeof(T) == 1)
                acc[r][j] = load(bias + j * kWidth);
            else
                acc[r][j] = set1(0.0f);
        }
    accumulate<T, kRows, kVectors, true>(rows.data, rows.stride, panel, units, acc, rows.ahead,
                                         kRows * rows.ahead_unit);
    V s[kRows][kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            if constexpr (sizeof(T) == 1)
                s[r][j] = to_float(acc[r][j]);
            else
                s[r][j] = acc[r][j];
        }
    if constexpr (sizeof(T) == 1) {
        for (int64_t e = 0; e < outliers.count; ++e)
#pragma GCC unroll 4
            for (int j = 0; j < kVectors; ++j) {
                const V column = load(outliers.columns + e * outliers.stride + j * kWidth);
#pragma GCC unroll 16
                for (int r = 0; r < kRows; ++r)
                    s[r][j] =
                        add(s[r][j], mul(set1(outliers.rows[r * outliers.count + e]), column));
            }
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) s[r][j] = mul(s[r][j], set1(scales[r]));
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
        V highest = maxima.best[j];
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) highest = max(s[r][j], highest);
        maxima.best[j] = highest;
        if constexpr (sizeof(T) > 1) {
            Mask bad = maxima.nan[j];
#pragma GCC unroll 16
            for (int r = 0; r < kRows; r += 2)
                bad = either(bad, unordered(s[r][j], s[r + 1 < kRows ? r + 1 : r][j]));
            maxima.nan[j] = bad;
        }
    }
}

template <class T, int kVectors, int kRows = tile_rows(kVectors)>
void max_panel(Rows rows, const float* scales, const uint32_t* panel, const int32_t* bias,
               Outliers outliers, int64_t units, int64_t count, Maxima maxima) {
    for (; count >= kRows; count -= kRows) {
        max_tile<T, kRows, kVectors>(rows, scales, panel, bias, outliers, units, maxima);
        rows.data += kRows * rows.stride;
        rows.ahead += kRows * rows.ahead_unit * units;
        scales += kRows;
        outliers.rows += kRows * outliers.count;
    }
    if constexpr (kRows > 1)
        if (count > 0)
            max_panel<T, kVectors, (kRows + 1) / 2>(rows, scales, panel, bias, outliers, units,
                                                    count, maxima);
}

template <class T>
void max_block(Rows rows, const float* scales, const Columns& columns, int64_t num_outliers,
               int64_t units, int64_t count, Maxima maxima) {
    for (int64_t column = 0; column < columns.count; column += kPanelColumns) {
        const uint32_t* panel = columns.panels + column * units;
        const int32_t* bias = columns.bias + column;
        const Outliers outliers = {rows.outliers, columns.outliers + column, num_outliers,
                                   columns.stride};
        switch (panel_vectors(column, columns.count)) {
            case 1:
                max_panel<T, 1>(rows, scales, panel, bias, outliers, units, count, maxima);
                break;
            case 2:
                max_panel<T, 2>(rows, scales, panel, bias, outliers, units, count, maxima);
                break;
            default:
                max_panel<T, 3>(rows, scales, panel, bias, outliers, units, count, maxima);
        }
        maxima.best += kPanelVectors;
        maxima.nan += kPanelVectors;
    }
}

// Sum of terms[0, count) in the order that packrank_kernels/maxsim.py gives; zeros follow them up
// to a multiple of kLanes.
inline float sum_in_order(const float* terms, int64_t count) {
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < count; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += terms[i + lane];
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    return lanes[0];
}

// What every task of a call reads: queries as columns, and where candidates start if their tokens
// lie end to end.
template <class T>
class Plan {
  public:
    explicit Plan(const MaxSimArgs& args)
        : args_(args),
          units_(num_units<T>(args.size)),
          columns_before_((args.num_queries + 1) * sizeof(int64_t)),
          num_columns_(place_columns()),
          panels_(num_columns_ * units_ * sizeof(uint32_t)),
          bias_(num_columns_ * sizeof(int32_t)),
          outliers_(args.num_outliers * num_columns_ * sizeof(float)),
          starts_((args.num_candidates + 1) * sizeof(int64_t)) {
        pack_queries();
        pack_outliers();
        int64_t* starts = static_cast<int64_t*>(starts_.data);
        starts[0] = 0;
        for (int64_t k = 0; k < args.num_candidates; ++k)
            starts[k + 1] = starts[k] + length(document(k));
    }

    int64_t document(int64_t k) const { return args_.candidates ? args_.candidates[k] : k; }
    int64_t length(int64_t n) const { return args_.cu_seqlens[n + 1] - args_.cu_seqlens[n]; }
    int64_t units() const { return units_; }

    // Columns of the queries that score candidate k, and which these are.
    Columns columns(int64_t k, int64_t& first, int64_t& end) const {
        first = args_.owners ? args_.owners[k] : 0;
        end = args_.owners ? first + 1 : args_.num_queries;
        const int64_t start = column(first);
        return {column(end) - start, static_cast<const uint32_t*>(panels_.data) + start * units_,
                static_cast<const int32_t*>(bias_.data) + start,
                static_cast<const float*>(outliers_.data) + start, num_columns_};
    }
    int64_t column(int64_t query) const {
        return static_cast<const int64_t*>(columns_before_.data)[query];
    }
    int64_t num_columns() const { return num_columns_; }

    // Tasks of about as many tokens; candidates that start within its share belong to a task.
    int64_t num_tasks() const { return starts()[args_.num_candidates] / kDocTokensPerTask + 1; }
    int64_t first_candidate(int64_t task) const {
        if (task == num_tasks()) return args_.num_candidates;
        int64_t low = 0, high = args_.num_candidates;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (starts()[middle] < task * kDocTokensPerTask)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }

  private:
    const int64_t* starts() const { return static_cast<const int64_t*>(starts_.data); }

    int64_t place_columns() {
        int64_t* before = static_cast<int64_t*>(columns_before_.data);
        before[0] = 0;
        for (int64_t m = 0; m < args_.num_queries; ++m)
            before[m + 1] =
                before[m] + padded_columns(args_.query_starts[m + 1] - args_.query_starts[m]);
        return before[args_.num_queries];
    }

    // With owners a query's panels are its own, else they run on from query to query.
    void pack_queries() {
        const int64_t row = args_.size * static_cast<int64_t>(sizeof(T));
        const Buffer padded(num_columns_ * row);
        char* rows = static_cast<char*>(padded.data);
        __builtin_memset(rows, 0, num_columns_ * row);
        for (int64_t m = 0; m < args_.num_queries; ++m) {
            const int64_t start = args_.query_starts[m];
            const int64_t bytes = (args_.query_starts[m + 1] - start) * row;
            if (bytes > 0)  // no rows at all have no address
                __builtin_memcpy(rows + column(m) * row,
                                 static_cast<const char*>(args_.queries) + start * row, bytes);
        }
        const int64_t groups = args_.owners ? args_.num_queries : 1;
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t start = column(g), end = args_.owners ? column(g + 1) : num_columns_;
            pack_transposed(reinterpret_cast<const T*>(rows + start * row), args_.size, end - start,
                            args_.size, static_cast<uint32_t*>(panels_.data) + start * units_);
        }
        int32_t* bias = static_cast<int32_t*>(bias_.data);
        if constexpr (sizeof(T) == 1)
            for (int64_t c = 0; c < num_columns_; ++c) {
                int32_t sum = 0;
                for (int64_t k = 0; k < args_.size; ++k)
                    sum += reinterpret_cast<const int8_t*>(rows)[c * args_.size + k];
                bias[c] = -128 * sum;
            }
    }

    void pack_outliers() {
        float* out = static_cast<float*>(outliers_.data);
        __builtin_memset(out, 0, args_.num_outliers * num_columns_ * sizeof(float));
        for (int64_t e = 0; e < args_.num_outliers; ++e)
            for (int64_t m = 0; m < args_.num_queries; ++m)
                for (int64_t i = args_.query_starts[m]; i < args_.query_starts[m + 1]; ++i)
                    out[e * num_columns_ + column(m) + i - args_.query_starts[m]] =
                        args_.query_outliers[i * args_.num_outliers + e];
    }

    const MaxSimArgs& args_;
    const int64_t units_;
    const Buffer columns_before_;
    const int64_t num_columns_;
    const Buffer panels_, bias_, outliers_, starts_;
};

// A thread's memory: maxima by column, terms of a sum, rows of a block, marks of NaN.
template <class T>
struct Work {
    explicit Work(const Plan<T>& plan, const MaxSimArgs& args) {
        const int64_t vectors = plan.num_columns() / kWidth + kLanes / kWidth;
        const int64_t rows = scratch_bytes<T>(args);
        char* memory =
            static_cast<char*>(scratch(vectors * (sizeof(V) + sizeof(Mask) + sizeof(V)) + rows));
        maxima.best = reinterpret_cast<V*>(memory);
        terms = reinterpret_cast<float*>(maxima.best + vectors);
        decoded = reinterpret_cast<char*>(terms) + vectors * sizeof(V);
        maxima.nan = reinterpret_cast<Mask*>(decoded + rows);
    }
    Maxima maxima;
    float* terms;
    char* decoded;
};

// Fills the maxima of a document's tokens [token, end), those of `next` being read after them;
// false where one of them is unsound.
template <class T>
bool max_document(const MaxSimArgs& args, const Columns& columns, int64_t units, int64_t token,
                  int64_t end, Span next, Work<T>& work) {
    for (int64_t j = 0; j < columns.count / kWidth; ++j) {
        work.maxima.best[j] = set1(-__builtin_inff());
        work.maxima.nan[j] = none();
    }
    bool sound = true;
    const int64_t block = block_tokens<T>(args.size);
    for (; token < end; token += block) {
        const int64_t count = end - token < block ? end - token : block;
        const Span after = token + count < end ? Span{token + count, end} : next;
        const Rows rows =
            read_rows(args, token, count, after, work.decoded, static_cast<T*>(nullptr), sound);
        const float* scales = args.scales + (sizeof(T) == 1 ? token : 0);
        max_block<T>(rows, scales, columns, args.num_outliers, units, count, work.maxima);
    }
    return sound;
}

// terms[0, count) = maxima from vector `first` on, NaN where one was met; writes whole vectors.
template <class T>
void read_maxima(Maxima maxima, int64_t first, int64_t count, float* terms) {
    for (int64_t i = 0, j = first; i < count; i += kWidth, ++j) {
        V term = maxima.best[j];
        if constexpr (sizeof(T) > 1) term = select(maxima.nan[j], set1(__builtin_nanf("")), term);
        store(terms + i, term);
    }
}

template <class T>
void score_candidate(const MaxSimArgs& args, const Plan<T>& plan, int64_t k, Work<T>& work) {
    int64_t first, end;
    const Columns columns = plan.columns(k, first, end);
    const int64_t* bounds = args.cu_seqlens + plan.document(k);
    Span next = {bounds[0], bounds[0]};
    if (k + 1 < args.num_candidates) {
        const int64_t* following = args.cu_seqlens + plan.document(k + 1);
        next = {following[0], following[1]};
    }
    const bool sound =
        max_document<T>(args, columns, plan.units(), bounds[0], bounds[1], next, work);
    const int64_t base = plan.column(first);
    for (int64_t m = first; m < end; ++m) {
        float* out = args.owners ? args.scores + k : args.scores + m * args.num_candidates + k;
        const int64_t start = args.query_starts[m], count = args.query_starts[m + 1] - start;
        if (bounds[0] == bounds[1]) {
            *out = -__builtin_inff();
            continue;
        }
        if (!sound && count > 0) {
            *out = __builtin_nanf("");
            continue;
        }
        read_maxima<T>(work.maxima, (plan.column(m) - base) / kWidth, count, work.terms);
        if constexpr (sizeof(T) == 1)
            for (int64_t n = 0; n < count; ++n) work.terms[n] *= args.query_weights[start + n];
        const int64_t whole = (count + kLanes - 1) / kLanes * kLanes;
        for (int64_t n = count; n < whole; ++n) work.terms[n] = 0.0f;
        *out = sum_in_order(work.terms, count);
    }
}

template <class T>
void maxsim_typed(const MaxSimArgs& args) {
    const Plan<T> plan(args);
    parallel(plan.num_tasks(), [&](int64_t task) {
        Work<T> work(plan, args);
        const int64_t end = plan.first_candidate(task + 1);
        for (int64_t k = plan.first_candidate(task); k < end; ++k)
            score_candidate<T>(args, plan, k, work);
    });
}

inline void maxsim(const MaxSimArgs& args) {
    switch (args.dtype) {
        case Dtype::kBFloat16:
            return maxsim_typed<BFloat16>(args);
        case Dtype::kInt8:
            return maxsim_typed<uint8_t>(args);
        default:
            return maxsim_typed<float>(args);
    }
}
