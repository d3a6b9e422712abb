// Keys and values on their way to the products of attention, and into pages. Included once per
// instruction set, inside its namespace.
//
// In a page a key is rotated already, rounded as attention rounds the keys that it rotates itself,
// so the bits of what is read are the same.

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

// `count` rows of one head, from position `first` of a sequence on, end to end.
template <class T>
void gather_rows(const Pages& pages, const int32_t* table, const Strided& x, int64_t head,
                 int64_t first, int64_t count, int64_t size, T* out) {
    int64_t page = first / pages.size, row = first % pages.size;
    for (; count > 0; row = 0, ++page) {
        const T* from = static_cast<const T*>(x.data) + table[page] * x.page_stride +
                        row * x.token_stride + head * x.head_stride;
        const int64_t rows = pages.size - row < count ? pages.size - row : count;
        if (x.token_stride == size)
            __builtin_memcpy(out, from, rows * size * sizeof(T));
        else
            for (int64_t r = 0; r < rows; ++r)
                __builtin_memcpy(out + r * size, from + r * x.token_stride, size * sizeof(T));
        out += rows * size;
        count -= rows;
    }
}

// The new keys of a sequence and one head, rotated by their positions, and their values, to the
// sequence's end.
template <class T>
void write_to_pages(const PagedAttentionArgs& args, int64_t sequence, int64_t head) {
    const AttentionArgs& to = args.attention;
    const Pages& pages = to.pages;
    const int64_t size = to.head_size, start = to.cu_seqlens_k[sequence];
    const int64_t count = to.cu_seqlens_k[sequence + 1] - start;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t position = pages.lengths[sequence] - count + i;
        const int64_t page = pages.table[sequence * pages.most + position / pages.size];
        const auto from = [&](const Strided& x) {
            return static_cast<const T*>(x.data) + (start + i) * x.token_stride +
                   head * x.head_stride;
        };
        const auto there = [&](const Strided& x) {
            return static_cast<T*>(const_cast<void*>(x.data)) + page * x.page_stride +
                   position % pages.size * x.token_stride + head * x.head_stride;
        };
        if (to.cos == nullptr) {
            __builtin_memcpy(there(to.k), from(args.new_k), size * sizeof(T));
        } else {
            const int64_t angle = position * (size / 2);
            rotate_row(from(args.new_k), to.cos + angle, to.sin + angle, size, there(to.k));
        }
        __builtin_memcpy(there(to.v), from(args.new_v), size * sizeof(T));
    }
}
