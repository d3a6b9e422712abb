// y = activation(x Wᵀ + b), and its gated form. Included once per instruction set, in its
// namespace.
//
// Floor: 2 T K N operations at the rate of the product instruction. The weight is read in panels
// laid out at load; a task takes kRowsPerTask rows of x through its panels, so a panel
// stays in the second-level cache for those rows. The epilogue takes kRowsPerBlock rows of sums
// while they are in the first-level cache: 24 stores and loads against 24 K products, 1 % from K =
// 384 on.

constexpr int64_t kRowsPerTask = 96;

// Who multiplies; made for each task, on the thread that runs it.
template <class T>
struct InRegisters {
    static constexpr int64_t kRowsPerBlock = 24;  // whole tiles of most heights
    void multiply(int nv, const char* a, int64_t a_stride, const uint32_t* b, int64_t units,
                  float* c, int64_t rows) const {
        product<T>(nv, a, a_stride, b, units, c, kPanelColumns, rows);
    }
};

template <class T>
int64_t packed_linear_units(int64_t out_features, int64_t in_features) {
    return padded_columns(out_features) * num_units<T>(in_features);
}

// Bias, activation and rounding, to Out, of some rows of one panel.
template <class Out, Activation kActivation>
void finish_rows(const LinearArgs& args, const float* sums, const float* gates, int64_t row,
                 int64_t rows, int64_t column, int nv) {
    Out* out = static_cast<Out*>(args.out) + row * args.out_features + column;
    for (int j = 0; j < nv; ++j) {
        const int64_t c = j * kWidth;
        const int64_t left = args.out_features - column - c;
        const bool whole = left >= kWidth;
        const int n = static_cast<int>(left);
        const float* bias = args.bias + column + c;
        const V b = whole ? load(bias) : load(bias, n);
        V gate_bias = set1(0.0f);
        if (gates != nullptr) {
            bias += args.out_features;
            gate_bias = whole ? load(bias) : load(bias, n);
        }
        for (int64_t r = 0; r < rows; ++r) {
            V y = activate<kActivation>(add(load(sums + r * kPanelColumns + c), b));
            if (gates != nullptr) y = mul(y, add(load(gates + r * kPanelColumns + c), gate_bias));
            if (whole)
                store(out + r * args.out_features + c, y);
            else
                store(out + r * args.out_features + c, y, n);
        }
    }
}

template <class Out>
auto finish_for(Activation activation) {
    switch (activation) {
        case Activation::kGelu:
            return &finish_rows<Out, Activation::kGelu>;
        case Activation::kGeluTanh:
            return &finish_rows<Out, Activation::kGeluTanh>;
        case Activation::kRelu:
            return &finish_rows<Out, Activation::kRelu>;
        case Activation::kSilu:
            return &finish_rows<Out, Activation::kSilu>;
        case Activation::kTanh:
            return &finish_rows<Out, Activation::kTanh>;
        case Activation::kNone:
            break;
    }
    return &finish_rows<Out, Activation::kNone>;
}

template <class T, class Products = InRegisters<T>>
void linear_typed(const LinearArgs& args) {
    constexpr int64_t kRowsPerBlock = Products::kRowsPerBlock;
    const int64_t units = num_units<T>(args.in_features);
    const int64_t padded = padded_columns(args.out_features);
    const int64_t num_panels = (padded + kPanelColumns - 1) / kPanelColumns;
    const int64_t row_tasks = (args.rows + kRowsPerTask - 1) / kRowsPerTask;
    const auto finish =
        args.wide ? finish_for<float>(args.activation) : finish_for<T>(args.activation);
    // Few rows: share the panels out as well, so that every thread has work.
    const int64_t groups = row_tasks >= 16 ? 1 : num_panels < 16 ? num_panels : 16;
    parallel(row_tasks * groups, [&](int64_t task) {
        const int64_t row = task / groups * kRowsPerTask, group = task % groups;
        const int64_t rows = args.rows - row < kRowsPerTask ? args.rows - row : kRowsPerTask;
        const T* x = static_cast<const T*>(args.x) + row * args.x_stride;
        int64_t stride = args.x_stride * static_cast<int64_t>(sizeof(T));
        const int64_t block = kRowsPerBlock * kPanelColumns;
        const bool odd = args.in_features % unit_elements<T>() != 0;
        float* sums =
            static_cast<float*>(scratch(2 * block * sizeof(float) + (odd ? rows * units * 4 : 0)));
        float* gates = args.gated ? sums + block : nullptr;
        const char* a = reinterpret_cast<const char*>(x);
        if (odd) {  // the last unit of a row must not reach into the next
            char* copy = reinterpret_cast<char*>(sums + 2 * block);
            for (int64_t r = 0; r < rows; ++r) {
                __builtin_memset(copy + (r + 1) * units * 4 - 4, 0, 4);
                __builtin_memcpy(copy + r * units * 4, a + r * stride,
                                 args.in_features * sizeof(T));
            }
            a = copy;
            stride = units * 4;
        }
        const uint32_t* weight = static_cast<const uint32_t*>(args.packed);
        const Products products;
        const int64_t last = num_panels * (group + 1) / groups;
        for (int64_t panel = num_panels * group / groups; panel < last; ++panel) {
            const int64_t column = panel * kPanelColumns;
            const int nv = panel_vectors(column, padded);
            for (int64_t r = 0; r < rows; r += kRowsPerBlock) {
                const int64_t count = rows - r < kRowsPerBlock ? rows - r : kRowsPerBlock;
                const char* block_rows = a + r * stride;
                products.multiply(nv, block_rows, stride, weight + column * units, units, sums,
                                  count);
                if (gates != nullptr)
                    products.multiply(nv, block_rows, stride, weight + (padded + column) * units,
                                      units, gates, count);
                finish(args, sums, gates, row + r, count, column, nv);
            }
        }
    });
}

inline int64_t packed_size(Dtype dtype, int64_t out_features, int64_t in_features) {
    return dtype == Dtype::kFloat32 ? packed_linear_units<float>(out_features, in_features)
                                    : packed_linear_units<BFloat16>(out_features, in_features) * 2;
}

inline void pack_linear(Dtype dtype, const void* weight, void* packed, int64_t out_features,
                        int64_t in_features) {
    if (dtype == Dtype::kFloat32)
        pack_transposed(static_cast<const float*>(weight), in_features, out_features, in_features,
                        static_cast<uint32_t*>(packed));
    else
        pack_transposed(static_cast<const BFloat16*>(weight), in_features, out_features,
                        in_features, static_cast<uint32_t*>(packed));
}

inline void linear(const LinearArgs& args) {
    return args.dtype == Dtype::kFloat32 ? linear_typed<float>(args) : linear_typed<BFloat16>(args);
}
