// RMSNorm of a sum, row by row. Included once per instruction set, inside its namespace.
// One read of every input and one write; the row's float32 sum waits in the first-level cache.

// A task takes rows of this many elements in all, at least one: rows are as short as one head of a
// query, or as long as a hidden state.
constexpr int64_t kRmsNormTask = 1 << 16;

// row = scale * x + residual (nothing where that is null), rounded into total unless that is null.
// Returns the sum of the squares of row, in two chains a lane.
template <class T>
float add_scaled_row(const T* x, float scale, const T* residual, int64_t size, float* row,
                     T* total) {
    const V s = set1(scale);
    V even = set1(0.0f), odd = set1(0.0f);
    const auto take = [&](int64_t i, V& squares) {
        V y = mul(load(x + i), s);
        if (residual != nullptr) y = add(y, load(residual + i));
        if (total != nullptr) store(total + i, y);
        store(row + i, y);
        squares = fma(y, y, squares);
    };
    int64_t i = 0;
    for (; i + 2 * kWidth <= size; i += 2 * kWidth) {
        take(i, even);
        take(i + kWidth, odd);
    }
    if (i + kWidth <= size) {
        take(i, even);
        i += kWidth;
    }
    if (const int rest = static_cast<int>(size - i)) {
        V y = mul(load(x + i, rest), s);
        if (residual != nullptr) y = add(y, load(residual + i, rest));
        if (total != nullptr) store(total + i, y, rest);
        store(row + i, y, rest);
        odd = fma(y, y, odd);
    }
    return sum(add(even, odd));
}

// out = row * factor * weight
template <class T>
void scale_row(const float* row, float factor, const float* weight, int64_t size, T* out) {
    const V f = set1(factor);
    const int64_t whole = size / kWidth * kWidth;
    for (int64_t i = 0; i < whole; i += kWidth)
        store(out + i, mul(mul(load(row + i), f), load(weight + i)));
    if (const int rest = static_cast<int>(size - whole))
        store(out + whole, mul(mul(load(row + whole, rest), f), load(weight + whole, rest)), rest);
}

template <class T>
void add_rms_norm_typed(const RmsNormArgs& args) {
    const T* x = static_cast<const T*>(args.x);
    const T* residual = static_cast<const T*>(args.residual);
    T* normed = static_cast<T*>(args.normed);
    T* total = static_cast<T*>(args.total);
    const int64_t size = args.size;
    const int64_t task_rows = size < kRmsNormTask ? kRmsNormTask / (size + 1) + 1 : 1;
    parallel((args.rows + task_rows - 1) / task_rows, [&](int64_t task) {
        float* row = static_cast<float*>(scratch(size * sizeof(float)));
        const int64_t end = (task + 1) * task_rows;
        for (int64_t r = task * task_rows; r < end && r < args.rows; ++r) {
            const int64_t at = r * size;
            const float squares =
                add_scaled_row(x + at, args.scale, residual == nullptr ? nullptr : residual + at,
                               size, row, total == nullptr ? nullptr : total + at);
            const float factor = 1.0f / sqrtf(squares / static_cast<float>(size) + args.eps);
            scale_row(row, factor, args.weight, size, normed + at);
        }
    });
}

inline void add_rms_norm(const RmsNormArgs& args) {
    return args.dtype == Dtype::kFloat32 ? add_rms_norm_typed<float>(args)
                                         : add_rms_norm_typed<BFloat16>(args);
}
