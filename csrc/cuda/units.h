// The tile list, implicit in cu_seqlens: which unit of work has which number.
//
// A unit is up to unit_rows queries of one sequence, for one head or, where the sequence is short,
// for two or four neighbouring heads, so that each of a block's four warps has queries. The units
// of a sequence are numbered heads first, those of a pack sequence by sequence.
#pragma once

#include "attention.h"
#include "device.h"

namespace packrank {
namespace cuda {

DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE int larger(int a, int b) { return a < b ? b : a; }
DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

struct Unit {
    int sequence;  // num_sequences after the last unit
    int part;      // which of the sequence's units
};

// log2 of the number of heads that a block takes at once.
DEVICE int log_heads(int queries, int keys) {
    const int longest = larger(queries, keys);
    return longest <= 16 ? 2 : longest <= 32 ? 1 : 0;
}

DEVICE int num_groups(int heads, int log_heads) {
    return (heads + (1 << log_heads) - 1) >> log_heads;
}

// Finds units in rising order. A warp looks at 128 sequences at a time and remembers where it was.
class UnitSearch {
  public:
    DEVICE explicit UnitSearch(const AttentionArgs& args)
        : args_(args), total_(args.cu_seqlens_q[args.num_sequences]) {}

    DEVICE Unit find(int index) {
        const int lane = thread_index() % 32;
        // Spare capacity, sequences after the last query, is not looked at.
        while (first_ < args_.num_sequences && args_.cu_seqlens_q[first_] < total_) {
            const int mine = first_ + lane * kPerLane;
            int counts[kPerLane], sum = 0;
            count(mine, counts);
#pragma unroll
            for (int i = 0; i < kPerLane; ++i) sum += counts[i];
            int through = sum;  // units of the lanes up to this one
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const int below = shuffle_up(through, distance);
                if (lane >= distance) through += below;
            }
            const uint32_t reached = ballot(before_ + through > index);
            if (reached != 0) {
                int part = index - before_ - (through - sum), at = 0;
#pragma unroll
                for (int i = 0; i < kPerLane - 1; ++i)
                    if (at == i && part >= counts[i]) {
                        part -= counts[i];
                        ++at;
                    }
                const int holder = lowest_bit(reached);
                const int sequence = shuffle(mine + at, holder);
                return {sequence, shuffle(part, holder)};
            }
            before_ += shuffle(through, 31);
            first_ += 32 * kPerLane;
        }
        return {args_.num_sequences, 0};
    }

  private:
    static constexpr int kPerLane = 4;

    DEVICE void count(int sequence, int (&counts)[kPerLane]) const {
        int q = args_.cu_seqlens_q[smaller(sequence, args_.num_sequences)];
        int k = args_.cu_seqlens_k[smaller(sequence, args_.num_sequences)];
#pragma unroll
        for (int i = 0; i < kPerLane; ++i) {
            const int next = smaller(sequence + i + 1, args_.num_sequences);
            const int next_q = args_.cu_seqlens_q[next], next_k = args_.cu_seqlens_k[next];
            counts[i] = ceil_div(next_q - q, args_.unit_rows) *
                        num_groups(args_.num_heads, log_heads(next_q - q, next_k - k));
            q = next_q;
            k = next_k;
        }
    }

    const AttentionArgs& args_;
    const int total_;
    int first_ = 0;   // sequence that the search has come to
    int before_ = 0;  // units of the sequences before it
};

}  // namespace cuda
}  // namespace packrank
