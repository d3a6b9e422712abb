// How wgmma gets document tokens of each format: what a thread copies into its own slots of shared
// memory, and how it makes its fragment of them. Nothing is shared between threads.
//
// SLABS of 64 bytes of a row are multiplied at a time, WHOLE: these are all; SIZE is D where it is
// known when this is compiled.
//
// The order of dimensions is free where queries have the same. A warp's 16 rows are multiplied 64
// bytes at a time: of such a slab each of a row's four threads has 16 bytes, words 0 to 3, of which
// wgmma number w / 2 takes word w for its lower or upper half of k (w % 2). `column` says where a
// word lies in a query's row.
#pragma once

#include "maxsim.h"
#include "warpgroup.h"

namespace packrank {
namespace cuda {

// A thread's two rows, 8 apart in the warp's 16.
struct TileRows {
    int64_t row[2];   // -1: nothing is read
    int32_t code[2];  // of residual formats, as it is, centroid or not
};

template <class ELEMENT, class SUM, MaxSimFormat FORMAT, int SLABS, bool WHOLE, int SIZE = 0>
struct PlainDocuments {
    using Element = ELEMENT;
    using Sum = SUM;
    static constexpr MaxSimFormat kFormat = FORMAT;
    static constexpr int kSlabs = SLABS;
    static constexpr bool kIsWhole = WHOLE;
    static constexpr int kSize = SIZE;
    static constexpr bool kIsScaled = FORMAT == MaxSimFormat::kInt8;
    static constexpr bool kHasCodes = false;
    static constexpr int kScales = 2 * SLABS;  // slot

    // Byte of a query's row, or -1 past its end.
    DEVICE static int column(int row_bytes, int slab, int thread, int word) {
        const int at = slab * kSlab + thread * 16 + word * 4;
        return at < row_bytes ? at : -1;
    }

    DEVICE explicit PlainDocuments(const MaxSimArgs&) {}

    DEVICE static void copy(const MaxSimArgs& args, const TileRows& rows, int first_slab,
                            int slot) {
        const int bytes = row_bytes(FORMAT, SIZE ? SIZE : args.size);
#pragma unroll
        for (int slab = 0; slab < SLABS; ++slab)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int at = (first_slab + slab) * kSlab + thread_index() % 4 * 16;
                const bool inside = rows.row[r] >= 0 && at < bytes;
                copy_stage<16>(slot + (2 * slab + r) * kSlotBytes,
                               args.values + (inside ? rows.row[r] * bytes + at : 0), inside);
            }
    }

    DEVICE void read(int slot, uint32_t (&a)[SLABS][2][4]) const {
#pragma unroll
        for (int slab = 0; slab < SLABS; ++slab)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const Vector v = load_shared(slot + (2 * slab + r) * kSlotBytes);
#pragma unroll
                for (int w = 0; w < 4; ++w) a[slab][w / 2][r + w % 2 * 2] = v.x[w];
            }
    }
};

DEVICE bool is_centroid(const MaxSimArgs& args, int32_t code) {
    return static_cast<uint32_t>(code) < static_cast<uint32_t>(args.num_centroids);
}

// Bytes of fields become bytes of a signed vector: the centroid's, which are 128 too large, plus
// the field's weight. Neither sum leaves its byte, so four take one addition.
template <int BITS, int SLABS, bool WHOLE, int SIZE = 0>
struct ResidualDocuments {
    using Element = Int8;
    using Sum = int32_t;
    static constexpr MaxSimFormat kFormat = BITS == 4 ? MaxSimFormat::k4Bit : MaxSimFormat::k2Bit;
    static constexpr int kSlabs = SLABS;
    static constexpr bool kIsWhole = WHOLE;
    static constexpr int kSize = SIZE;
    static constexpr bool kIsScaled = true;
    static constexpr bool kHasCodes = true;
    static constexpr int kPlanes = 8 / BITS;
    // A thread reads so many bytes of a row at once, which are those of two slabs when decoded; the
    // slots hold them for both rows, then those of the centroids, plane by plane.
    static constexpr int kChunk = BITS * 4;
    static constexpr int kRows = 16 / kChunk;  // that share a slot
    static constexpr int kSlots = 2 / kRows * (1 + kPlanes);
    static constexpr int kScales = SLABS / 2 * kSlots;

    DEVICE static int column(int row_bytes, int slab, int thread, int word) {
        const int plane = slab % 2 * (kPlanes / 2) + word / (kChunk / 4);
        const int at = slab / 2 * 4 * kChunk + thread * kChunk + word % (kChunk / 4) * 4;
        return at < row_bytes / kPlanes ? plane * (row_bytes / kPlanes) + at : -1;
    }

    DEVICE explicit ResidualDocuments(const MaxSimArgs& args) {
#pragma unroll
        for (int i = 0; i < kTable; ++i)
            table_[i] = load_constant(reinterpret_cast<const uint32_t*>(args.table) + i);
    }

    DEVICE static void copy(const MaxSimArgs& args, const TileRows& rows, int first_slab,
                            int slot) {
        const int size = SIZE ? SIZE : args.size, bytes = size / kPlanes;
#pragma unroll
        for (int pair = 0; pair < SLABS / 2; ++pair)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int at = (first_slab / 2 + pair) * 4 * kChunk + thread_index() % 4 * kChunk;
                const bool inside = rows.row[r] >= 0 && at < bytes;
                copy_stage<kChunk>(slot + place(pair, 0, r),
                                   args.values + (inside ? rows.row[r] * bytes + at : 0), inside);
                const bool is_coded = inside && is_centroid(args, rows.code[r]);
                const uint8_t* const centroid =
                    args.centroids +
                    (is_coded ? static_cast<int64_t>(rows.code[r]) * size + at : 0);
#pragma unroll
                for (int plane = 0; plane < kPlanes; ++plane)
                    copy_stage<kChunk>(slot + place(pair, 1 + plane, r), centroid + plane * bytes,
                                       is_coded);
            }
    }

    DEVICE void read(int slot, uint32_t (&a)[SLABS][2][4]) const {
#pragma unroll
        for (int pair = 0; pair < SLABS / 2; ++pair)
#pragma unroll
            for (int half = 0; half < 2 / kRows; ++half) {
                const Vector fields = load_shared(slot + place(pair, 0, half));
                uint32_t weights[kPlanes][4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    uint32_t found[kPlanes];
                    decode(fields.x[i], found);
#pragma unroll
                    for (int plane = 0; plane < kPlanes; ++plane) weights[plane][i] = found[plane];
                }
#pragma unroll
                for (int plane = 0; plane < kPlanes; ++plane) {
                    const Vector centroid = load_shared(slot + place(pair, 1 + plane, half));
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        constexpr int kEach = kChunk / 4;  // words of a row in a slot
                        const int r = kRows == 2 ? i / kEach : half;
                        const int word = plane % (kPlanes / 2) * kEach + i % kEach;
                        a[pair * 2 + plane / (kPlanes / 2)][word / 2][r + word % 2 * 2] =
                            (centroid.x[i] + weights[plane][i]) ^ 0x80808080u;
                    }
                }
            }
    }

  private:
    static constexpr int kTable = BITS == 4 ? 4 : 1;

    DEVICE static int place(int pair, int part, int r) {
        return (pair * kSlots + part * (2 / kRows) + r / kRows) * kSlotBytes + r % kRows * kChunk;
    }

    // Weights of a word's fields; those of plane p are (8 - BITS * (p + 1)) bits up in each byte.
    DEVICE void decode(uint32_t x, uint32_t (&weights)[kPlanes]) const {
        if constexpr (BITS == 4) {
            const uint32_t place = x & 0x77777777u, which = (x >> 1 & 0x44444444u) | 0x32103210u;
            const uint32_t low = four_of(place, which), high = four_of(place >> 16, which >> 16);
            weights[0] = pick_bytes(low, high, 0x7531);
            weights[1] = pick_bytes(low, high, 0x6420);
        } else {
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
                const uint32_t fields = (odd ? x : x >> 2) & 0x33333333u;
                const uint32_t low = pick_bytes(table_[0], 0, fields);
                const uint32_t high = pick_bytes(table_[0], 0, fields >> 16);
                weights[odd] = pick_bytes(low, high, 0x7531);
                weights[2 + odd] = pick_bytes(low, high, 0x6420);
            }
        }
    }

    // Weights of four fields: the instruction looks 3 bits up in either half of the table, the
    // fourth bit says `which` answer is right.
    DEVICE uint32_t four_of(uint32_t place, uint32_t which) const {
        const uint32_t lower = pick_bytes(table_[0], table_[1], place);
        const uint32_t upper = pick_bytes(table_[kTable / 2], table_[kTable - 1], place);
        return pick_bytes(lower, upper, which);
    }

    uint32_t table_[kTable];
};

}  // namespace cuda
}  // namespace packrank
