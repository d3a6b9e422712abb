// Products of bfloat16 in AMX's tiles: 16 rows of 64 bytes. Included by amx.cpp alone.
//
// A panel of B as gemm.h lays it out is a column of tiles already: a row of a tile is a unit of 16
// columns. Of C, 32 rows of a panel stand in six tiles, and the two that are left hold a tile of A
// and one of B: per 16 units 6 products at 16 clocks, and 8 loads at 8.
//
// Each element is one chain along the inner dimension, two neighbours a step, whatever rows it is
// computed with.

constexpr int64_t kTileRows = 16, kTileUnits = 16;

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

struct InTiles {
    static constexpr int64_t kRowsPerBlock = 2 * kTileRows;

    InTiles() { configure(kTileRows); }
    ~InTiles() { _tile_release(); }
    InTiles(const InTiles&) = delete;
    InTiles& operator=(const InTiles&) = delete;

    // C[rows, nv vectors] = A[rows, units] B; units fill whole tiles.
    void multiply(int nv, const char* a, int64_t a_stride, const uint32_t* b, int64_t units,
                  float* c, int64_t rows) const {
        if (rows == kRowsPerBlock) return of_vectors<2>(nv, a, a_stride, b, units, c);
        for (; rows > 0; rows -= kTileRows) {
            if (rows < kTileRows) configure(rows);
            of_vectors<1>(nv, a, a_stride, b, units, c);
            a += kTileRows * a_stride;
            c += kTileRows * kPanelColumns;
        }
        if (rows < 0) configure(kTileRows);
    }

  private:
    // Tiles 0 to 5 are C, 6 is A, 7 is B; those of A and C have so many rows.
    static void configure(int64_t rows) {
        TileConfig config;
        for (int tile = 0; tile < 8; ++tile) {
            config.bytes[tile] = 64;
            config.rows[tile] = static_cast<uint8_t>(tile == 7 ? kTileUnits : rows);
        }
        _tile_loadconfig(&config);
    }

    template <int kTiles>
    static void of_vectors(int nv, const char* a, int64_t a_stride, const uint32_t* b,
                           int64_t units, float* c) {
        if (nv == 3) return block<kTiles, 3>(a, a_stride, b, units, c);
        if (nv == 2) return block<kTiles, 2>(a, a_stride, b, units, c);
        block<kTiles, 1>(a, a_stride, b, units, c);
    }

    template <int kTiles, int kVectors>
    static void block(const char* a, int64_t a_stride, const uint32_t* b, int64_t units, float* c) {
        constexpr int64_t kStride = kVectors * kWidth * 4;
        _tile_zero(0);
        if constexpr (kVectors > 1) _tile_zero(1);
        if constexpr (kVectors > 2) _tile_zero(2);
        if constexpr (kTiles > 1) {
            _tile_zero(3);
            if constexpr (kVectors > 1) _tile_zero(4);
            if constexpr (kVectors > 2) _tile_zero(5);
        }
        for (int64_t unit = 0; unit < units; unit += kTileUnits) {
            const uint32_t* columns = b + unit * kVectors * kWidth;
            _tile_loadd(6, a + 4 * unit, a_stride);
            _tile_loadd(7, columns, kStride);
            _tile_dpbf16ps(0, 6, 7);
            if constexpr (kVectors > 1) {
                _tile_loadd(7, columns + kWidth, kStride);
                _tile_dpbf16ps(1, 6, 7);
            }
            if constexpr (kVectors > 2) {
                _tile_loadd(7, columns + 2 * kWidth, kStride);
                _tile_dpbf16ps(2, 6, 7);
            }
            if constexpr (kTiles > 1) {
                _tile_loadd(6, a + kTileRows * a_stride + 4 * unit, a_stride);
                if constexpr (kVectors > 2) _tile_dpbf16ps(5, 6, 7);
                if constexpr (kVectors > 1) {
                    if constexpr (kVectors > 2) _tile_loadd(7, columns + kWidth, kStride);
                    _tile_dpbf16ps(4, 6, 7);
                }
                if constexpr (kVectors > 1) _tile_loadd(7, columns, kStride);
                _tile_dpbf16ps(3, 6, 7);
            }
        }
        constexpr int64_t kOut = kPanelColumns * 4;
        _tile_stored(0, c, kOut);
        if constexpr (kVectors > 1) _tile_stored(1, c + kWidth, kOut);
        if constexpr (kVectors > 2) _tile_stored(2, c + 2 * kWidth, kOut);
        if constexpr (kTiles > 1) {
            float* below = c + kTileRows * kPanelColumns;
            _tile_stored(3, below, kOut);
            if constexpr (kVectors > 1) _tile_stored(4, below + kWidth, kOut);
            if constexpr (kVectors > 2) _tile_stored(5, below + 2 * kWidth, kOut);
        }
    }
};
