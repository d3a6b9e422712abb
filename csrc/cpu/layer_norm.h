// Row-wise normalisation of a sum. Included once per instruction set, inside its namespace.
// One read of every input and one write; the row's float32 sum waits in the first-level cache.

// Statistics of row[0 .. size) and (row - mean) / sqrt(variance + eps) * weight + bias into out.
template <class T>
void normalise_row(const float* row, int64_t size, const float* weight, const float* bias,
                   float eps, T* out) {
    const int64_t whole = size / kWidth * kWidth;
    const int rest = static_cast<int>(size - whole);
    V total = set1(0.0f);
    for (int64_t i = 0; i < whole; i += kWidth) total = add(total, load(row + i));
    if (rest) total = add(total, load(row + whole, rest));
    const float mean = sum(total) / static_cast<float>(size);
    const V m = set1(mean);
    V squares = set1(0.0f);
    for (int64_t i = 0; i < whole; i += kWidth) {
        const V d = sub(load(row + i), m);
        squares = fma(d, d, squares);
    }
    for (int64_t i = whole; i < size; ++i) {
        float lane[kWidth] = {row[i] - mean};
        const V d = load(lane);
        squares = fma(d, d, squares);
    }
    const float variance = sum(squares) / static_cast<float>(size);
    const V scale = set1(1.0f / sqrtf(variance + eps));
    for (int64_t i = 0; i < whole; i += kWidth) {
        const V y = mul(mul(sub(load(row + i), m), scale), load(weight + i));
        store(out + i, bias == nullptr ? y : add(y, load(bias + i)));
    }
    if (rest) {
        const V y = mul(mul(sub(load(row + whole, rest), m), scale), load(weight + whole, rest));
        store(out + whole, bias == nullptr ? y : add(y, load(bias + whole, rest)), rest);
    }
}

// row (+)= values
template <bool kFirst, class T>
void add_row(float* row, const T* values, int64_t size) {
    const int64_t whole = size / kWidth * kWidth;
    const int rest = static_cast<int>(size - whole);
    for (int64_t i = 0; i < whole; i += kWidth)
        store(row + i, kFirst ? load(values + i) : add(load(row + i), load(values + i)));
    if (rest) {
        const V x = load(values + whole, rest);
        store(row + whole, kFirst ? x : add(load(row + whole, rest), x), rest);
    }
}

template <class T>
void write_row(const float* row, T* out, int64_t size) {
    const int64_t whole = size / kWidth * kWidth;
    for (int64_t i = 0; i < whole; i += kWidth) store(out + i, load(row + i));
    const int rest = static_cast<int>(size - whole);
    if (rest) store(out + whole, load(row + whole, rest), rest);
}

constexpr int64_t kNormRowsPerTask = 64;

template <class T>
void add_layer_norm_typed(const NormArgs& args) {
    const T* x = static_cast<const T*>(args.x);
    const T* residual = static_cast<const T*>(args.residual);
    T* normed = static_cast<T*>(args.normed);
    T* total = static_cast<T*>(args.total);
    const int64_t size = args.size;
    parallel((args.rows + kNormRowsPerTask - 1) / kNormRowsPerTask, [&](int64_t task) {
        float* row = static_cast<float*>(scratch(size * sizeof(float)));
        const int64_t end = (task + 1) * kNormRowsPerTask;
        for (int64_t r = task * kNormRowsPerTask; r < end && r < args.rows; ++r) {
            add_row<true>(row, x + r * size, size);
            if (residual != nullptr) add_row<false>(row, residual + r * size, size);
            if (total != nullptr) write_row(row, total + r * size, size);
            normalise_row(row, size, args.weight, args.bias, args.eps, normed + r * size);
        }
    });
}

template <class T>
void embed_layer_norm_typed(const EmbedArgs& args) {
    const T* tokens = static_cast<const T*>(args.token_table);
    const T* positions = static_cast<const T*>(args.position_table);
    const T* types = static_cast<const T*>(args.type_table);
    T* out = static_cast<T*>(args.out);
    const int64_t size = args.size;
    parallel((args.rows + kNormRowsPerTask - 1) / kNormRowsPerTask, [&](int64_t task) {
        float* row = static_cast<float*>(scratch(size * sizeof(float)));
        const int64_t end = (task + 1) * kNormRowsPerTask;
        for (int64_t r = task * kNormRowsPerTask; r < end && r < args.rows; ++r) {
            add_row<true>(row, tokens + args.token_ids[r] * size, size);
            if (positions != nullptr)
                add_row<false>(row, positions + args.positions[r] * size, size);
            if (types != nullptr) {
                const int64_t type = args.token_types == nullptr ? 0 : args.token_types[r];
                add_row<false>(row, types + type * size, size);
            }
            normalise_row(row, size, args.weight, args.bias, args.eps, out + r * size);
        }
    });
}

inline void add_layer_norm(const NormArgs& args) {
    return args.dtype == Dtype::kFloat32 ? add_layer_norm_typed<float>(args)
                                         : add_layer_norm_typed<BFloat16>(args);
}

inline void embed_layer_norm(const EmbedArgs& args) {
    return args.dtype == Dtype::kFloat32 ? embed_layer_norm_typed<float>(args)
                                         : embed_layer_norm_typed<BFloat16>(args);
}
