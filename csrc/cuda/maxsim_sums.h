// Scores from maxima: one warp a candidate and up to kQueriesAtOnce queries. Lane i takes query
// tokens i, i + 32 and so on, in order; then the upper half of the lanes is added to the lower,
// five times: the order of packrank_kernels.maxsim. Maxima are read once, far fewer bytes than
// documents have (by arithmetic: 8 a query token and document, written and read, for 36 or more a
// document token).
#pragma once

#include "maxsim_tiles.h"

namespace packrank {
namespace cuda {

constexpr int kQueriesAtOnce = 16;
constexpr int kSumWarps = 4;  // of a block

class ScoreWarp {
  public:
    DEVICE explicit ScoreWarp(const MaxSimArgs& args) : args_(args) {}

    DEVICE void run() const {
        const int queries = args_.owners == nullptr ? args_.num_queries : 1;
        const int64_t parts = (queries + kQueriesAtOnce - 1) / kQueriesAtOnce;
        const int64_t stride = static_cast<int64_t>(num_blocks()) * kSumWarps;
        int64_t item = static_cast<int64_t>(block_index()) * kSumWarps + thread_index() / 32;
        const int64_t base = args_.starts[0];
        const int64_t each =
            rows_of_range(args_.starts[args_.num_candidates] - base, args_.plan.ranges());
        for (; item < parts * args_.num_candidates; item += stride) {
            const int64_t candidate = item / parts;
            const int first = static_cast<int>(item % parts) * kQueriesAtOnce;
            const int end = first + kQueriesAtOnce < queries ? first + kQueriesAtOnce : queries;
            const Part part = part_of(candidate, base, each);
            for (int m = first; m < end; ++m) {
                const int owner = args_.owners == nullptr ? m : args_.owners[candidate];
                const float score = score_of(candidate, owner, part);
                if (thread_index() % 32 == 0)
                    args_.scores[m * args_.scores_stride + candidate] = score;
            }
        }
    }

  private:
    // Ranges that have rows of a candidate, or what it scores without any.
    struct Part {
        int64_t first, last;
        bool is_settled;
        float score;
    };

    DEVICE Part part_of(int64_t candidate, int64_t base, int64_t each) const {
        const int64_t start = args_.starts[candidate], end = args_.starts[candidate + 1];
        if (args_.candidates != nullptr) {
            const int64_t document = args_.candidates[candidate];
            if (document < 0 || document >= args_.num_documents)
                return {0, 0, true, __builtin_nanf("")};
        }
        if (start >= end) return {0, 0, true, kBelowAll};
        return {(start - base) / each, (end - 1 - base) / each, false, 0.0f};
    }

    DEVICE float score_of(int64_t candidate, int owner, const Part& part) const {
        if (part.is_settled) return part.score;
        const bool is_one = args_.query_starts == nullptr;
        const int start = is_one ? 0 : args_.query_starts[owner];
        const int end = is_one ? args_.num_columns : args_.query_starts[owner + 1];
        const int shift = args_.owners == nullptr ? 0 : start;  // a query alone starts at column 0
        float total = 0.0f;
        for (int row = start + thread_index() % 32; row < end; row += 32) {
            float term = highest(candidate, row - shift, part);
            if (args_.weights != nullptr) term = product(term, args_.weights[row]);
            total = sum(total, term);
        }
#pragma unroll
        for (int width = 16; width > 0; width /= 2) total = sum(total, shuffle_xor(total, width));
        return total;
    }

    DEVICE float highest(int64_t candidate, int column, const Part& part) const {
        const int64_t columns = args_.plan.columns;
        if (part.first == part.last) return args_.maxima[candidate * columns + column];
        float most = args_.partial[(part.first * 2 + 1) * columns + column];
        for (int64_t range = part.first + 1; range <= part.last; ++range)
            most = maximum(most, args_.partial[range * 2 * columns + column]);
        return most;
    }

    const MaxSimArgs& args_;
};

}  // namespace cuda
}  // namespace packrank
