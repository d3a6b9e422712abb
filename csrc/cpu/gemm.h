// The product under every kernel: a few rows of A times one panel of B, sums in registers.
// Included once per instruction set, inside its namespace.
//
// B lies in panels of a few vectors of columns, kPanelVectors where nothing else is said. Within a
// panel, the inner dimension runs slowest, in *units* of 32 bits: one float, two neighbouring
// bfloat16 or four neighbouring bytes, as one step of a dot product takes them. A is read where it
// lies, row-major, one unit broadcast at a time.
//
// Each element of the product is one chain of additions along the inner dimension, whatever tile it
// falls into: this is why a score's bits do not depend on its company.
//
// Registers: kPanelVectors * rows accumulators, one vector of B per column vector, one of A. With
// 32 registers 8 x 3 leaves 24 independent chains, four times what one product a cycle at latency
// 6 needs (Zen 4, 512 bits), and 48 columns divide the widths of the usual encoders.

constexpr int kPanelVectors = 3;
constexpr int kPanelColumns = kPanelVectors * kWidth;

// Rows of a full tile over a panel of nv vectors.
constexpr int tile_rows(int nv) {
    if (kRegisters == 32) return nv == 4 ? 6 : nv == 3 ? 8 : 12;
    return nv == 3 ? 4 : nv == 2 ? 5 : 8;
}

template <class T>
constexpr int64_t unit_elements() {
    return sizeof(uint32_t) / sizeof(T);
}

template <class T>
constexpr int64_t num_units(int64_t elements) {
    return (elements + unit_elements<T>() - 1) / unit_elements<T>();
}

inline uint32_t read_unit(const char* p) {
    uint32_t unit;
    __builtin_memcpy(&unit, p, sizeof(unit));
    return unit;
}

// acc[r][j] += sum over k of A[r][k] * B[k][j], rows of A `a_stride` bytes apart.
// ahead, if any: memory that is read soon, `ahead_step` bytes of it a step, is fetched meanwhile.
template <class T, int kRows, int kVectors, bool kFetch = false>
inline __attribute__((always_inline)) void accumulate(
    const char* a, int64_t a_stride, const uint32_t* b, int64_t units,
    typename Product<T>::Sum (&acc)[kRows][kVectors], const char* ahead = nullptr,
    int64_t ahead_step = 0) {
    using P = Product<T>;
    const char* rows[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) rows[r] = a + r * a_stride;
    for (int64_t k = 0; k < units; ++k) {
        if constexpr (kFetch) {
            __builtin_prefetch(ahead);
            ahead += ahead_step;
        }
#pragma GCC unroll 4
        for (int step = 0; step < P::kSteps; ++step) {
            typename P::Operand column[kVectors];
#pragma GCC unroll 4
            for (int j = 0; j < kVectors; ++j) column[j] = P::load(b + j * kWidth, step);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const typename P::Operand row = P::broadcast(read_unit(rows[r] + 4 * k), step);
#pragma GCC unroll 4
                for (int j = 0; j < kVectors; ++j)
                    acc[r][j] = P::accumulate(row, column[j], acc[r][j]);
            }
        }
        b += kVectors * kWidth;
    }
}

template <class T, int kRows, int kVectors>
__attribute__((noinline)) void store_tile(const char* a, int64_t a_stride, const uint32_t* b,
                                          int64_t units, float* c, int64_t c_stride, bool adds) {
    V acc[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j)
            acc[r][j] = adds ? load(c + r * c_stride + j * kWidth) : set1(0.0f);
    accumulate<T, kRows, kVectors>(a, a_stride, b, units, acc);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) store(c + r * c_stride + j * kWidth, acc[r][j]);
}

// C[rows, nv vectors] = A[rows, units] B, in tiles of falling height.
template <class T, int kVectors, int kRows = tile_rows(kVectors)>
void product_panel(const char* a, int64_t a_stride, const uint32_t* b, int64_t units, float* c,
                   int64_t c_stride, int64_t rows, bool adds) {
    for (; rows >= kRows; rows -= kRows) {
        store_tile<T, kRows, kVectors>(a, a_stride, b, units, c, c_stride, adds);
        a += kRows * a_stride;
        c += kRows * c_stride;
    }
    if constexpr (kRows > 1)
        if (rows > 0)
            product_panel<T, kVectors, (kRows + 1) / 2>(a, a_stride, b, units, c, c_stride, rows,
                                                        adds);
}

// The same for any number of vectors; with `adds` the chains go on from what C holds.
template <class T>
void product(int nv, const char* a, int64_t a_stride, const uint32_t* b, int64_t units, float* c,
             int64_t c_stride, int64_t rows, bool adds = false) {
    switch (nv) {
        case 1:
            return product_panel<T, 1>(a, a_stride, b, units, c, c_stride, rows, adds);
        case 2:
            return product_panel<T, 2>(a, a_stride, b, units, c, c_stride, rows, adds);
        case 3:
            return product_panel<T, 3>(a, a_stride, b, units, c, c_stride, rows, adds);
    }
    if constexpr (kRegisters == 32)
        product_panel<T, 4>(a, a_stride, b, units, c, c_stride, rows, adds);
}

// Columns padded to whole vectors.
inline int64_t padded_columns(int64_t columns) { return (columns + kWidth - 1) / kWidth * kWidth; }

// Vectors of the panel that starts at this column.
inline int panel_vectors(int64_t column, int64_t padded) {
    const int64_t left = (padded - column) / kWidth;
    return left < kPanelVectors ? static_cast<int>(left) : kPanelVectors;
}

// Lays rows [rows, size] out as panels whose columns are those rows (B = rowsᵀ). Columns past the
// last row, and what is left of the last unit, are zero.
template <class T>
void pack_transposed(const T* source, int64_t stride, int64_t rows, int64_t size,
                     uint32_t* packed) {
    const int64_t units = num_units<T>(size), whole = size / unit_elements<T>();
    const int64_t padded = padded_columns(rows);
    for (int64_t column = 0; column < padded; column += kPanelColumns) {
        const int64_t width = panel_vectors(column, padded) * kWidth;
        for (int64_t c = column; c < column + width; c += kWidth) {
            uint32_t* out = packed + column * units + (c - column);
            int64_t u = 0;
            if (c + kWidth <= rows) {
                const uint32_t* in = reinterpret_cast<const uint32_t*>(source + c * stride);
                // A row stride of an odd number of bfloat16 leaves rows off any 32-bit grid.
                if (stride % unit_elements<T>() == 0)
                    for (; u + kWidth <= whole; u += kWidth)
                        transpose_block(in + u, stride / unit_elements<T>(), out + u * width,
                                        width);
            }
            for (; u < units; ++u)
                for (int64_t i = 0; i < kWidth; ++i) {
                    uint32_t unit = 0;
                    if (c + i < rows) {
                        const int64_t left = (size - u * unit_elements<T>()) * sizeof(T);
                        __builtin_memcpy(&unit, source + (c + i) * stride + u * unit_elements<T>(),
                                         left < 4 ? left : 4);
                    }
                    out[u * width + i] = unit;
                }
        }
    }
}
