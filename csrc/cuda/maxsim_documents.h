// How wgmma gets document tokens of each format: what a thread copies into its own slots of shared
// memory, and how it makes its fragment of them. Nothing is shared between threads.
//
// SLABS of 64 bytes of a row are multiplied at a time, WHOLE: these are all; SIZE is D where it is
// known when this is compiled.
//
// The order of dimensions is free where queries have the same. A warp's 16 rows are multiplied 64
// bytes at a time: of such a slab each of a row's four threads has 16 bytes, words 0 to 3, of which
// wgmma number w / 2 takes word w for its lower or upper half of k (w % 2). `word` finds a query's.
#pragma once

#include "maxsim.h"
#include "warpgroup.h"

namespace packrank {
namespace cuda {

// A document token: of a thread's two, which are 8 apart in the warp's 16.
struct TileRow {
    const uint8_t* values;  // `part` bytes after the row's begin
    const float* scale;
    int32_t code;  // of residual formats, as it is, centroid or not
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
    static constexpr int kTooLarge = 0;        // by so much are elements
    static constexpr int kScales = 2 * SLABS;  // slot

    // Four bytes of a query's row; 0 past its end.
    DEVICE static uint32_t word(const uint8_t* row, int bytes, int slab, int thread, int word) {
        const int at = slab * kSlab + thread * 16 + word * 4;
        return at < bytes ? load_constant(reinterpret_cast<const uint32_t*>(row + at)) : 0;
    }

    DEVICE explicit PlainDocuments(const MaxSimArgs&) {}

    // Where this thread's bytes of a row begin, if that is the same in all of them.
    DEVICE static int part() { return SIZE ? thread_index() % 4 * 16 : 0; }

    DEVICE bool is_known(int32_t) const { return true; }

    template <bool EVICTED>
    DEVICE void copy(const MaxSimArgs& args, const TileRow& row, int r, int first_slab,
                     int slot) const {
        const int bytes = row_bytes(FORMAT, SIZE ? SIZE : args.size);
#pragma unroll
        for (int slab = 0; slab < SLABS; ++slab) {
            const int at = (first_slab + slab) * kSlab + thread_index() % 4 * 16;
            const bool inside = SIZE || at < bytes;
            copy_stage<16, EVICTED>(slot + (2 * slab + r) * kSlotBytes,
                                    row.values + (inside ? at - part() : 0), inside);
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

// Bytes of fields become bytes of a vector that is 128 too large: the centroid's plus the field's
// weight. No such sum leaves its byte, so four take one addition.
//
// The table's instruction looks up the fields of four nibbles at once, so these are a word of a
// vector; `word` finds the same dimensions in a query's row, and centroids lie so already
// (PackedCodec.rows_by_word), 32 bytes a thread.
template <int BITS, int SLABS, bool WHOLE, int SIZE = 0>
struct ResidualDocuments {
    using Element = UInt8;
    using Sum = int32_t;
    static constexpr MaxSimFormat kFormat = BITS == 4 ? MaxSimFormat::k4Bit : MaxSimFormat::k2Bit;
    static constexpr int kSlabs = SLABS;
    static constexpr bool kIsWhole = WHOLE;
    static constexpr int kSize = SIZE;
    static constexpr bool kIsScaled = true;
    static constexpr bool kHasCodes = true;
    static constexpr int kTooLarge = 128;
    static constexpr int kPlanes = 8 / BITS;
    // A thread reads so many bytes of a row at once, which are 32 when decoded; the slots hold them
    // for both rows, then each row's centroid.
    static constexpr int kChunk = BITS * 4;
    static constexpr int kRows = 16 / kChunk;  // that share a slot
    static constexpr int kSlots = 2 / kRows + 4;
    static constexpr int kScales = SLABS / 2 * kSlots;

    DEVICE static uint32_t word(const uint8_t* row, int bytes, int slab, int thread, int word) {
        const int at = (slab / 2 * 4 + thread) * kChunk, plane_bytes = bytes / kPlanes;
        if (at >= plane_bytes) return 0;
        uint32_t found = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int place = slab % 2 * 4 + word, nibble = place % 2 * 4 + k;
            const int shift = nibble % 2 * 4 + place / 2 % kFields * BITS;
            const int plane = kPlanes - 1 - shift / BITS;
            const int byte = place / (2 * kFields) * 4 + nibble / 2;
            const uint32_t x = load_constant(row + plane * plane_bytes + at + byte);
            found |= x << 8 * k;
        }
        return found;
    }

    DEVICE explicit ResidualDocuments(const MaxSimArgs& args)
        : num_centroids_(args.num_centroids), centroids_(args.centroids + part() * kPlanes) {
        uint32_t all = 0;
#pragma unroll
        for (int i = 0; i < kTable; ++i) {
            table_[i] = load_constant(reinterpret_cast<const uint32_t*>(args.table) + i);
            all |= table_[i];
        }
        is_small_ = (all & 0x80808080u) == 0;
    }

    DEVICE static int part() { return SIZE ? thread_index() % 4 * kChunk : 0; }

    // Whether a code names a centroid.
    DEVICE bool is_known(int32_t code) const {
        return static_cast<uint32_t>(code) < static_cast<uint32_t>(num_centroids_);
    }

    template <bool EVICTED>
    DEVICE void copy(const MaxSimArgs& args, const TileRow& row, int r, int first_slab,
                     int slot) const {
        const int size = SIZE ? SIZE : args.size, bytes = size / kPlanes;
        const bool is_coded = is_known(row.code);
        const uint8_t* const centroid = element(centroids_, is_coded ? row.code : 0, size);
#pragma unroll
        for (int pair = 0; pair < SLABS / 2; ++pair) {
            const int at = (first_slab / 2 + pair) * 4 * kChunk + thread_index() % 4 * kChunk;
            const bool inside = SIZE || at < bytes;
            const int begin = inside ? at - part() : 0;
            copy_stage<kChunk, EVICTED>(slot + value_slot(pair, r), row.values + begin, inside);
#pragma unroll
            for (int half = 0; half < 2; ++half)
                copy_stage<16>(slot + centroid_slot(pair, r, half),
                               centroid + begin * kPlanes + half * 16, inside && is_coded);
        }
    }

    DEVICE void read(int slot, uint32_t (&a)[SLABS][2][4]) const {
        if (BITS == 2 || is_small_)
            read_as<true>(slot, a);
        else
            read_as<false>(slot, a);
    }

  private:
    static constexpr int kTable = BITS == 4 ? 4 : 1;
    static constexpr int kFields = 4 / BITS;  // of a nibble

    DEVICE static int value_slot(int pair, int r) {
        return (pair * kSlots + r / kRows) * kSlotBytes + r % kRows * kChunk;
    }
    DEVICE static int centroid_slot(int pair, int r, int half) {
        return (pair * kSlots + 2 / kRows + 2 * r + half) * kSlotBytes;
    }

    template <bool SMALL>
    DEVICE void read_as(int slot, uint32_t (&a)[SLABS][2][4]) const {
#pragma unroll
        for (int pair = 0; pair < SLABS / 2; ++pair) {
            Vector fields[2 / kRows];
#pragma unroll
            for (int i = 0; i < 2 / kRows; ++i)
                fields[i] = load_shared(slot + (pair * kSlots + i) * kSlotBytes);
#pragma unroll
            for (int r = 0; r < 2; ++r)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const Vector centroid = load_shared(slot + centroid_slot(pair, r, half));
#pragma unroll
                    for (int w = 0; w < 4; ++w) {
                        const int place = 4 * half + w;
                        const uint32_t x =
                            fields[r / kRows].x[r % kRows * BITS + place / (2 * kFields)];
                        a[pair * 2 + half][w / 2][r + w % 2 * 2] =
                            add_weights<SMALL>(centroid.x[w], x, place);
                    }
                }
        }
    }

    // A word of a vector, from that of a centroid and a word of fields.
    template <bool SMALL>
    DEVICE uint32_t add_weights(uint32_t centroid, uint32_t x, int place) const {
        const int shift = place % 2 * 16;
        if constexpr (BITS == 2) {
            const uint32_t fields = (place / 2 % 2 ? x >> 2 : x) & 0x33333333u;
            return centroid + pick_bytes(table_[0], 0, fields >> shift);
        } else if constexpr (SMALL) {
            // The instruction looks 3 bits up; where the fourth is set it repeats a sign, here 0.
            const uint32_t lower = pick_bytes(table_[0], table_[1], x >> shift);
            const uint32_t upper = pick_bytes(table_[2], table_[3], x >> shift ^ 0x88888888u);
            return centroid + lower + upper;
        } else {
            const uint32_t fields = (x & 0x77777777u) >> shift;
            const uint32_t which = ((x >> 1 & 0x44444444u) | 0x32103210u) >> shift;
            return centroid + pick_bytes(pick_bytes(table_[0], table_[1], fields),
                                         pick_bytes(table_[2], table_[3], fields), which);
        }
    }

    int num_centroids_;
    const uint8_t* centroids_;
    bool is_small_;  // no weight has its highest bit
    uint32_t table_[kTable];
};

}  // namespace cuda
}  // namespace packrank
