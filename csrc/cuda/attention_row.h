// Packed attention where a sequence has one query: the last layer, where one token is scored.
//
// A warp takes one head of one sequence and reads its keys and values once, 16 bytes a lane: D / 8
// lanes hold a key, so a warp reads 32 / (D / 8) keys at a time, four such loads of each ahead.
// There is nothing to share, so nothing is staged, and products are plain: 4 D operations a key for
// 4 D bytes, far below what memory allows (by arithmetic). The warps of a block take neighbouring
// heads, whose rows lie side by side.
#pragma once

#include "attention.h"
#include "device.h"
#include "units.h"

namespace packrank {
namespace cuda {

template <class T, int D>
class RowWarp {
  public:
    DEVICE explicit RowWarp(const AttentionArgs& args) : args_(args) {}

    DEVICE void run() const {
        const int total = args_.cu_seqlens_q[args_.num_sequences];
        const int64_t items = static_cast<int64_t>(args_.num_sequences) * args_.num_heads;
        const int64_t stride = static_cast<int64_t>(num_blocks()) * kWarps;
        int64_t item = static_cast<int64_t>(block_index()) * kWarps + thread_index() / 32;
        for (; item < items; item += stride) {
            const int sequence = static_cast<int>(item / args_.num_heads);
            const int start = args_.cu_seqlens_q[sequence];
            if (start == total) return;  // spare capacity is left, and sequences without a query
            // One turn. More are right as well, though slow.
            for (int row = start; row < args_.cu_seqlens_q[sequence + 1]; ++row)
                query(sequence, static_cast<int>(item % args_.num_heads), row, row - start);
        }
    }

  private:
    static constexpr int kLanes = D / 8;         // that share a key
    static constexpr int kGroups = 32 / kLanes;  // keys read at a time
    static constexpr int kAhead = 4;
    static constexpr float kNothing = -__builtin_inff();

    DEVICE const void* chunk_of(const Strided& x, int64_t token, int64_t head) const {
        return static_cast<const uint16_t*>(x.data) + token * x.token_stride +
               head * x.head_stride + thread_index() % kLanes * 8;
    }

    DEVICE static void widen(const Vector& v, float (&x)[8]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) unpack(T(), v.x[i], x[2 * i], x[2 * i + 1]);
    }

    DEVICE void query(int sequence, int head, int row, int position) const {
        const int key_start = args_.cu_seqlens_k[sequence];
        const int num_keys = args_.cu_seqlens_k[sequence + 1] - key_start;
        const int begin = larger(0, position - args_.window);
        const int end = smaller(num_keys, position + args_.window + 1);
        const int group = thread_index() % 32 / kLanes;
        float q[8];
        widen(load_global(chunk_of(args_.q, row, head)), q);
        float highest = kNothing, sum = 0.0f, out[8] = {};
        for (int key = begin; key < end; key += kAhead * kGroups) {
            Vector keys[kAhead], values[kAhead];
#pragma unroll
            for (int i = 0; i < kAhead; ++i) {
                const int mine = key + i * kGroups + group;
                keys[i] = values[i] = {};
                if (mine < end) {
                    keys[i] = load_global(chunk_of(args_.k, key_start + mine, head));
                    values[i] = load_global(chunk_of(args_.v, key_start + mine, head));
                }
            }
            float scores[kAhead], top = highest;
#pragma unroll
            for (int i = 0; i < kAhead; ++i) {
                const float score = dot(q, keys[i]);
                scores[i] = key + i * kGroups + group < end ? score : kNothing;
                top = fmaxf(top, scores[i]);
            }
            const float origin = origin_of(top);
            const float shrink = exp2_of(highest - origin);
            highest = top;
            sum *= shrink;
#pragma unroll
            for (int j = 0; j < 8; ++j) out[j] *= shrink;
#pragma unroll
            for (int i = 0; i < kAhead; ++i) {
                const float weight = exp2_of(scores[i] - origin);
                sum += weight;
                float value[8];
                widen(values[i], value);
#pragma unroll
                for (int j = 0; j < 8; ++j) out[j] += weight * value[j];
            }
        }
#pragma unroll
        for (int distance = kLanes; distance < 32; distance *= 2)
            merge(distance, highest, sum, out);
        if (group != 0) return;
        const float share = sum == 0.0f ? 0.0f : 1.0f / sum;
        Vector v;
#pragma unroll
        for (int i = 0; i < 4; ++i) v.x[i] = pack(T(), out[2 * i] * share, out[2 * i + 1] * share);
        store_global(static_cast<uint16_t*>(args_.out) +
                         (static_cast<int64_t>(row) * args_.num_heads + head) * D +
                         thread_index() % kLanes * 8,
                     v);
    }

    // scale * log2(e) * (q . key), in each of the lanes that share the key.
    DEVICE float dot(const float (&q)[8], const Vector& key) const {
        float k[8], sum = 0.0f;
        widen(key, k);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += q[i] * k[i];
#pragma unroll
        for (int distance = 1; distance < kLanes; distance *= 2) sum += shuffle_xor(sum, distance);
        return sum * args_.scale;
    }

    DEVICE static float origin_of(float top) { return top == kNothing ? 0.0f : top; }

    // Brings together what two groups of lanes have seen.
    DEVICE static void merge(int distance, float& highest, float& sum, float (&out)[8]) {
        const float other = shuffle_xor(highest, distance);
        const float top = fmaxf(highest, other), origin = origin_of(top);
        const float mine = exp2_of(highest - origin), theirs = exp2_of(other - origin);
        highest = top;
        sum = sum * mine + shuffle_xor(sum, distance) * theirs;
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] = out[i] * mine + shuffle_xor(out[i], distance) * theirs;
    }

    const AttentionArgs& args_;
};

}  // namespace cuda
}  // namespace packrank
