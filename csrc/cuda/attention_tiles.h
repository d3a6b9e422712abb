// Packed attention for short sequences, 16 queries a warp at a time.
//
// A block takes a unit (units.h) at a time. It stages the keys and values of the unit's heads in
// shared memory once; then each warp multiplies 16 queries by 64 keys a step, with a running
// maximum (Milakov and Gimelshein 2018), and writes 16 rows of the result. Sequences of up to 16
// tokens put one head in each warp, of up to 32 one head in two warps, others one head in all four.
// While a block waits for its unit's memory, the other blocks of the multiprocessor compute.
//
// The bits of a row depend on its sequence and head alone: a tile starts at a multiple of 16
// queries and its steps at a multiple of 16 keys, both counted in the sequence.
//
// The floor is memory: Q, K and V are read and O is written, 8 D bytes a token and head. By
// arithmetic, a token of a sequence of L keys costs L exponentials (16 a cycle of a multiprocessor)
// and L D / 1024 matrix instructions: at D = 64 and 12.5 bytes a cycle (an H100's 132
// multiprocessors sharing 2.9 TB/s, at 1.755 GHz) memory takes 41 cycles a token, at L = 128
// exponentials take 8 and matrix instructions, two cycles of shared memory each, 16; only at L =
// 256 and more, or with Q, K and V in the second-level cache, does arithmetic count. A full step is
// 253 instructions at D = 32 and 329 at 64 (sm_90a, the loop's test included), four of which begin
// in a cycle: 8 and 10 cycles a token at L = 128.
#pragma once

#include "attention.h"
#include "device.h"
#include "units.h"

namespace packrank {
namespace cuda {

template <class T, int D>
class TileBlock {
  public:
    DEVICE explicit TileBlock(const AttentionArgs& args) : args_(args) {}

    DEVICE void run() {
        Unit unit = advance(args_, {0, 0}, block_index());
        while (unit.sequence < args_.num_sequences) {
            open(unit);
            stage();
            // This warp's head and first tile; where a block has several heads, its only one. Its
            // queries come while keys and values do.
            const int warps_per_head = kWarps >> log_heads_, slot = warp() / warps_per_head;
            int row = first_row_ + warp() % warps_per_head * kRows;
            head_ += slot;
            staged_ = slot * padded_keys_ - first_key_;
            if (head_ >= args_.num_heads) row = last_row_;
            uint32_t queries[D / 16][4];
            if (row < last_row_) load_queries(row, queries);
            unit = advance(args_, unit, num_blocks());
            copies_wait();
            sync_block();
            while (row < last_row_) {
                tile(row, queries);
                row += kWarps * kRows;
                if (row < last_row_) load_queries(row, queries);
            }
            sync_block();
        }
    }

  private:
    static constexpr int kRows = 16;       // queries of a tile
    static constexpr int kStep = 64;       // keys of a step
    static constexpr int kPart = 16;       // keys that are skipped together
    static constexpr int kChunks = D / 8;  // 16 bytes each
    static constexpr int kRowBytes = 2 * D;
    static constexpr int kTooMany = -1;
    static constexpr float kNothing = -__builtin_inff();

    DEVICE static int warp() { return thread_index() / 32; }
    DEVICE static int lane() { return thread_index() % 32; }

    DEVICE void open(const Unit& unit) {
        query_start_ = args_.cu_seqlens_q[unit.sequence];
        key_start_ = args_.cu_seqlens_k[unit.sequence];
        num_queries_ = args_.cu_seqlens_q[unit.sequence + 1] - query_start_;
        num_keys_ = args_.cu_seqlens_k[unit.sequence + 1] - key_start_;
        log_heads_ = log_heads(num_queries_, num_keys_);
        if (num_keys_ > args_.capacity) num_keys_ = kTooMany;
        const int groups = num_groups(args_.num_heads, log_heads_);
        head_ = unit.part % groups << log_heads_;
        first_row_ = unit.part / groups << args_.log_unit_rows;
        last_row_ = smaller(first_row_ + (1 << args_.log_unit_rows), num_queries_);
        first_key_ = begin_of(first_row_);
        padded_keys_ = larger(0, end_of(last_row_ - 1) - first_key_ + kPart - 1) / kPart * kPart;
    }

    // The tile at `row` looks at the keys [begin_of(row), end_of(its last row)).
    DEVICE int begin_of(int row) const { return larger(0, row - args_.window) / kPart * kPart; }
    DEVICE int end_of(int row) const { return smaller(num_keys_, row + args_.window + 1); }

    // Rows of 16-byte chunks, so arranged that the eight lanes that read at a time (keys: 2 rows x
    // 4 chunks; values: 8 rows x 1 chunk) use no bank twice; nor do those that write, but for two
    // at head size 32 with several heads a block.
    DEVICE static int key_chunk(int row, int chunk) {
        const int turn = D == 64 ? row % 2 * 4 : 0;
        return row * kRowBytes + (chunk ^ turn) * 16;
    }
    DEVICE int value_chunk(int row, int chunk) const {
        const int turn = D == 64 ? row % 8 : row / 2 % 4;
        return (args_.capacity + row) * kRowBytes + (chunk ^ turn) * 16;
    }

    // Keys and values of the unit's heads, with zeros up to a multiple of 16 keys: a weight of 0
    // must not meet what a block before left there.
    DEVICE void stage() const {
        const int count = padded_keys_ * kChunks << log_heads_;
        for (int i = thread_index(); i < count; i += kThreads) {
            const int chunk = i % kChunks, row = i / kChunks;
            const int slot = row & ((1 << log_heads_) - 1), offset = row >> log_heads_;
            const int key = first_key_ + offset;
            const bool exists = key < num_keys_ && head_ + slot < args_.num_heads;
            const int token = exists ? key_start_ + key : 0, head = exists ? head_ + slot : 0;
            const int target = slot * padded_keys_ + offset;
            copy_async(key_chunk(target, chunk), chunk_of(args_.k, token, head, chunk), exists);
            copy_async(value_chunk(target, chunk), chunk_of(args_.v, token, head, chunk), exists);
        }
    }

    DEVICE static const void* chunk_of(const Strided& x, int64_t token, int64_t head, int chunk) {
        return static_cast<const uint16_t*>(x.data) + token * x.token_stride +
               head * x.head_stride + chunk * 8;
    }

    // Queries [row, row + 16) of one head. In an mma, lane 4 g + t holds of a [16, 8] tile the rows
    // g and g + 8, columns 2 t and 2 t + 1.
    DEVICE void tile(int row, const uint32_t (&queries)[D / 16][4]) const {
        float out[D / 8][4] = {};
        float highest[2] = {kNothing, kNothing}, sum[2] = {0.0f, 0.0f};
        const int end = end_of(smaller(row + kRows, last_row_) - 1);
        for (int key = begin_of(row); key < end; key += kStep) {
            // Every query sees every key: the last one the first, the first one the last.
            if (key >= row + kRows - 1 - args_.window && key + kStep <= end_of(row))
                step<true>(queries, row, key, end, highest, sum, out);
            else
                step<false>(queries, row, key, end, highest, sum, out);
        }
        const int group = lane() / 4;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float total = sum[half] + shuffle_xor(sum[half], 1);
            total += shuffle_xor(total, 2);
            const float none = num_keys_ == kTooMany ? __builtin_nanf("") : 0.0f;
            const float share = total == 0.0f ? none : 1.0f / total;
            store(row + group + 8 * half, half, share, out);
        }
    }

    // Keys [key, key + 64) of a tile; ALL: all are seen by all, and there is no branch. The
    // arrangement of chunks repeats every eight rows, so that a lane has one address among keys and
    // one among values, from which its others differ by constants.
    template <bool ALL>
    DEVICE void step(const uint32_t (&queries)[D / 16][4], int row, int key, int end,
                     float (&highest)[2], float (&sum)[2], float (&out)[D / 8][4]) const {
        const int first = (staged_ + key) * kRowBytes;
        const int keys = first + key_chunk(lane() / 4, lane() % 4);
        const int values = first + value_chunk(lane() % 16, lane() / 16);
        float scores[kStep / 8][4];
#pragma unroll
        for (int part = 0; part < kStep / kPart; ++part) {
            if (ALL || key + part * kPart < end) {
                multiply_keys(queries, keys, part * kPart, scores[2 * part]);
                multiply_keys(queries, keys, part * kPart + 8, scores[2 * part + 1]);
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    scores[2 * part][i] = scores[2 * part + 1][i] = kNothing;
            }
        }
        if (!ALL) hide(row + lane() / 4, key + lane() % 4 * 2, scores);
        uint32_t weights[kStep / 8][2];
        weigh(scores, highest, sum, out, weights);
#pragma unroll
        for (int part = 0; part < kStep / kPart; ++part)
            if (ALL || key + part * kPart < end)
                multiply_values(weights[2 * part], weights[2 * part + 1], values, part * kPart,
                                out);
    }

    // Lane 4 g + t takes the elements 8 t to 8 t + 7 of each 32, of the rows g and g + 8: within a
    // product the order of the inner dimension is free, as long as keys come in the same one. Rows
    // past the last become zeros. That would not be needed; but an mma wants its left side in four
    // neighbouring registers, two of either row, and a load leaves four of one, which ptxas moves
    // in every step, while what comes of a mask lies where it is wanted.
    DEVICE void load_queries(int row, uint32_t (&queries)[D / 16][4]) const {
#pragma unroll
        for (int i = 0; i < D / 32; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int mine = row + lane() / 4 + 8 * half;
                const uint32_t mask = mine < last_row_ ? ~0u : 0u;
                const int token = query_start_ + smaller(mine, last_row_ - 1);
                const Vector v = load_global(chunk_of(args_.q, token, head_, 4 * i + lane() % 4));
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    queries[2 * i + j / 2][j % 2 * 2 + half] = v.x[j] & mask;
            }
    }

    // scores = queries times eight keys, the first of them `row` rows after a lane's address
    // `keys`.
    DEVICE static void multiply_keys(const uint32_t (&queries)[D / 16][4], int keys, int row,
                                     float (&scores)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[i] = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 32; ++i) {
            const Vector v = load_shared((keys ^ 4 * i * 16) + row * kRowBytes);
            multiply(T(), scores, queries[2 * i], v.x[0], v.x[1]);
            multiply(T(), scores, queries[2 * i + 1], v.x[2], v.x[3]);
        }
    }

    DEVICE void hide(int row, int key, float (&scores)[kStep / 8][4]) const {
#pragma unroll
        for (int i = 0; i < kStep / 8; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int its_row = row + j / 2 * 8, its_key = key + 8 * i + j % 2;
                const bool visible = its_key < num_keys_ && its_key - its_row <= args_.window &&
                                     its_row - its_key <= args_.window;
                if (!visible) scores[i][j] = kNothing;
            }
    }

    // Scores become weights 2^(scale * (score - highest)); what was summed before is brought to the
    // new highest score. NaN passes: it is in the sum, whatever the highest is.
    DEVICE void weigh(float (&scores)[kStep / 8][4], float (&highest)[2], float (&sum)[2],
                      float (&out)[D / 8][4], uint32_t (&weights)[kStep / 8][2]) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = highest[half];
#pragma unroll
            for (int i = 0; i < kStep / 8; ++i)
                top = fmaxf(top, fmaxf(scores[i][2 * half], scores[i][2 * half + 1]));
            top = fmaxf(top, shuffle_xor(top, 1));
            top = fmaxf(top, shuffle_xor(top, 2));
            const float origin = top == kNothing ? 0.0f : top * args_.scale;
            const float shrink = exp2_of(highest[half] * args_.scale - origin);
            highest[half] = top;
            sum[half] *= shrink;
#pragma unroll
            for (int i = 0; i < D / 8; ++i) {
                out[i][2 * half] *= shrink;
                out[i][2 * half + 1] *= shrink;
            }
#pragma unroll
            for (int i = 0; i < kStep / 8; ++i) {
                const float a = exp2_of(scores[i][2 * half] * args_.scale - origin);
                const float b = exp2_of(scores[i][2 * half + 1] * args_.scale - origin);
                sum[half] += a;
                sum[half] += b;
                weights[i][half] = pack(T(), a, b);
            }
        }
    }

    // out += weights times 16 values, the first of them `row` rows after a lane's address `values`.
    // The tiles that hold the weights are what an mma takes as its left side.
    DEVICE static void multiply_values(const uint32_t (&left)[2], const uint32_t (&right)[2],
                                       int values, int row, float (&out)[D / 8][4]) {
        const uint32_t weights[4] = {left[0], left[1], right[0], right[1]};
#pragma unroll
        for (int i = 0; i < D / 16; ++i) {
            const Vector v = load_matrices_transposed((values ^ 2 * i * 16) + row * kRowBytes);
            multiply(T(), out[2 * i], weights, v.x[0], v.x[1]);
            multiply(T(), out[2 * i + 1], weights, v.x[2], v.x[3]);
        }
    }

    // One row of every four lanes: they exchange 2 x 4 elements each, so that each writes 16 bytes.
    DEVICE void store(int row, int half, float factor, const float (&out)[D / 8][4]) const {
        uint16_t* target =
            static_cast<uint16_t*>(args_.out) +
            ((query_start_ + static_cast<int64_t>(row)) * args_.num_heads + head_) * D;
#pragma unroll
        for (int i = 0; i < D / 32; ++i) {
            Vector v;
#pragma unroll
            for (int j = 0; j < 4; ++j)
                v.x[j] = pack(T(), out[4 * i + j][2 * half] * factor,
                              out[4 * i + j][2 * half + 1] * factor);
            exchange(v, 1);
            exchange(v, 2);
            if (row < last_row_) store_global(target + 32 * i + 8 * (lane() % 4), v);
        }
    }

    // One of the two steps that transpose the 4 x 4 words of four lanes.
    DEVICE static void exchange(Vector& v, int distance) {
        const bool upper = lane() & distance;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i & distance) continue;
            const uint32_t kept = upper ? v.x[i + distance] : v.x[i];
            const uint32_t given = shuffle_xor(upper ? v.x[i] : v.x[i + distance], distance);
            v.x[i] = upper ? given : kept;
            v.x[i + distance] = upper ? kept : given;
        }
    }

    const AttentionArgs& args_;
    // The unit: queries [first_row_, last_row_) of a sequence, 2^log_heads_ heads from head_; after
    // staging, head_ is the warp's own.
    int query_start_, key_start_, num_queries_, num_keys_;
    int log_heads_, head_, first_row_, last_row_;
    int first_key_, padded_keys_;  // staged, of each head
    int staged_;                   // row of shared memory that the warp's key 0 would have
};

#ifdef __CUDACC__
// Four blocks a multiprocessor: ptxas (CUDA 13.0) gives 127 (sm_80) or 128 (sm_90a) registers at
// head size 64, 111 or 120 at 32, and spills none. Shared memory, 32 KiB a block at 128 keys of
// size 64, lets as many stay; at 256 keys it is 64 KiB, and 2 (sm_80) or 3 (sm_90) do.
template <class T, int D>
__global__ void __launch_bounds__(kThreads, 4)
    attention_tiles(const __grid_constant__ AttentionArgs args) {
    TileBlock<T, D>(args).run();
}
#endif

}  // namespace cuda
}  // namespace packrank
