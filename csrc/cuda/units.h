// The tile list, implicit in cu_seqlens: which unit of work has which number.
//
// A unit is up to 2^log_unit_rows queries of one sequence, for one head or, where the sequence is
// short, for two or four neighbouring heads, so that each of a block's four warps has queries. The
// units of a sequence are numbered heads first, those of a pack sequence by sequence.
//
// A block looks for its units anew in every layer. By arithmetic, a list made once a forward would
// not pay: a block's first search is two waits for the second-level cache (0.15 us each) and a
// dozen exchanges between lanes (0.15 us), of which reading a list would save all but one wait, 0.3
// us of the 10 to 35 us that a layer's attention takes for ten to sixteen thousand tokens; later
// searches run while keys and values are on their way. Making the list is a launch more, some 3 us
// a forward.
#pragma once

#include "attention.h"
#include "device.h"

namespace packrank {
namespace cuda {

DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE int larger(int a, int b) { return a < b ? b : a; }
// x / 2^log, rounded up.
DEVICE int shift_up(int x, int log) { return (x + (1 << log) - 1) >> log; }

struct Unit {
    int sequence;  // num_sequences after the last unit
    int part;      // which of the sequence's units
};

// log2 of the number of heads that a block takes at once.
DEVICE int log_heads(int queries, int keys) {
    const int longest = larger(queries, keys);
    return longest <= 16 ? 2 : longest <= 32 ? 1 : 0;
}

DEVICE int num_groups(int heads, int log_heads) { return shift_up(heads, log_heads); }

constexpr int kLaneSequences = 4;  // that a lane looks at

DEVICE void count_units(const AttentionArgs& args, int sequence, int (&counts)[kLaneSequences]) {
    int q = args.cu_seqlens_q[smaller(sequence, args.num_sequences)];
    int k = args.cu_seqlens_k[smaller(sequence, args.num_sequences)];
#pragma unroll
    for (int i = 0; i < kLaneSequences; ++i) {
        const int next = smaller(sequence + i + 1, args.num_sequences);
        const int next_q = args.cu_seqlens_q[next], next_k = args.cu_seqlens_k[next];
        counts[i] = shift_up(next_q - q, args.log_unit_rows) *
                    num_groups(args.num_heads, log_heads(next_q - q, next_k - k));
        q = next_q;
        k = next_k;
    }
}

// The unit `ahead` units past another. A warp looks at 128 sequences at a time.
DEVICE Unit advance(const AttentionArgs& args, Unit unit, int ahead) {
    const int lane = thread_index() % 32, total = args.cu_seqlens_q[args.num_sequences];
    int first = unit.sequence, left = unit.part + ahead;
    // Spare capacity, sequences after the last query, is not looked at.
    while (first < args.num_sequences && args.cu_seqlens_q[first] < total) {
        const int mine = first + lane * kLaneSequences;
        int counts[kLaneSequences], sum = 0;
        count_units(args, mine, counts);
#pragma unroll
        for (int i = 0; i < kLaneSequences; ++i) sum += counts[i];
        int through = sum;  // units of the lanes up to this one
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const int below = shuffle_up(through, distance);
            if (lane >= distance) through += below;
        }
        const uint32_t reached = ballot(through > left);
        if (reached != 0) {
            int part = left - (through - sum), at = 0;
#pragma unroll
            for (int i = 0; i < kLaneSequences - 1; ++i)
                if (at == i && part >= counts[i]) {
                    part -= counts[i];
                    ++at;
                }
            const int holder = lowest_bit(reached);
            const int sequence = shuffle(mine + at, holder);
            return {sequence, shuffle(part, holder)};
        }
        left -= shuffle(through, 31);
        first += 32 * kLaneSequences;
    }
    return {args.num_sequences, 0};
}

}  // namespace cuda
}  // namespace packrank
