// MaxSim on compute capability 9.0: arguments, and how a launch is cut up. Plain C++: the launcher,
// the bindings and the tests on a processor share it.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif

namespace packrank {
namespace cuda {

enum class MaxSimFormat : int { kFloat16 = 0, kBFloat16 = 1, kInt8 = 2, k4Bit = 3, k2Bit = 4 };

constexpr int kTileRows = 16;        // document tokens that a warp multiplies at a time
constexpr int kGroupThreads = 128;   // of a warpgroup
constexpr int kSlab = 64;            // bytes of a row as it is multiplied: two wgmma along k
constexpr int kMostRowBytes = 2048;  // of a query token
constexpr int kMostShared = 232448;  // bytes of a block, 227 KiB
constexpr int kSlotBytes = 16 * kGroupThreads;
constexpr int kWords = 64;  // bytes in which the warps of a block agree on a query

// 65536 registers: 128 a thread for four warpgroups, 168 for three, whose panels are wide.
constexpr int most_warpgroups(int panel) { return panel > 32 ? 3 : 4; }

// Where a launch puts its columns (query tokens) and rows (document tokens).
struct MaxSimPlan {
    int panel;          // columns multiplied at a time: 32, 64 or 128
    int columns;        // a multiple of panel: of all queries, or of the longest with owners
    int group_columns;  // that lie in shared memory at once, a multiple of panel
    int slab_group;     // slabs loaded and multiplied at a time: 2 or 4
    int slabs;          // of a row, a multiple of slab_group
    int warpgroups;     // of a block
    int stages;         // slab groups that are under way or in use, 2 to 4
    int blocks;

    HOST_DEVICE constexpr int ranges() const { return blocks * warpgroups * 4; }
    HOST_DEVICE constexpr int query_bytes() const { return group_columns * slabs * kSlab; }
};

// Slots of 16 bytes a thread in a stage: values, centroids, scales.
HOST_DEVICE constexpr int num_slots(MaxSimFormat format, int slab_group) {
    return format == MaxSimFormat::kInt8   ? 2 * slab_group + 1
           : format == MaxSimFormat::k4Bit ? 3 * slab_group + 1
           : format == MaxSimFormat::k2Bit ? 5 * slab_group / 2 + 1
                                           : 2 * slab_group;
}

HOST_DEVICE constexpr int stage_bytes(MaxSimFormat format, const MaxSimPlan& plan) {
    return num_slots(format, plan.slab_group) * kSlotBytes;
}

HOST_DEVICE constexpr int element_bytes(MaxSimFormat format) {
    return format == MaxSimFormat::kFloat16 || format == MaxSimFormat::kBFloat16 ? 2 : 1;
}

// Beside its query token: a maximum for each warp, and what sums of integers begin with, twice.
HOST_DEVICE constexpr int column_bytes(MaxSimFormat format, int warpgroups) {
    return warpgroups * 4 * 4 + (element_bytes(format) == 1 ? 8 : 0);
}

HOST_DEVICE constexpr int shared_bytes(MaxSimFormat format, const MaxSimPlan& plan) {
    return plan.query_bytes() + plan.warpgroups * plan.stages * stage_bytes(format, plan) +
           plan.group_columns * column_bytes(format, plan.warpgroups) + kWords;
}

// Bytes of a document token's values.
HOST_DEVICE constexpr int row_bytes(MaxSimFormat format, int size) {
    return format == MaxSimFormat::k4Bit   ? size / 2
           : format == MaxSimFormat::k2Bit ? size / 4
                                           : size * element_bytes(format);
}

// Rows of each warp's range, where `rows` are shared by `ranges` warps.
HOST_DEVICE constexpr int64_t rows_of_range(int64_t rows, int64_t ranges) {
    const int64_t each = (rows + ranges - 1) / ranges;
    return (each + kTileRows - 1) / kTileRows * kTileRows;
}

// Sizes that have a kernel: float16 and bfloat16 multiples of 8, the others multiples of 32, with
// rows of up to kMostRowBytes.
constexpr bool has_maxsim(MaxSimFormat format, int64_t size) {
    const int bytes = element_bytes(format);
    return size > 0 && size % (bytes == 2 ? 8 : 32) == 0 && size * bytes <= kMostRowBytes;
}

// As many columns at once as fit; else as few passes over the documents as there can be. With
// owners a block is one warpgroup, and several share a multiprocessor where they fit.
inline MaxSimPlan plan_maxsim(MaxSimFormat format, int size, int columns, bool owners,
                              int multiprocessors) {
    MaxSimPlan plan = {};
    const int chunk = format == MaxSimFormat::k4Bit || format == MaxSimFormat::k2Bit ? 128 : kSlab;
    const int slabs = (size * element_bytes(format) + chunk - 1) / chunk * (chunk / kSlab);
    plan.slab_group = slabs > 2 && element_bytes(format) == 2 ? 4 : 2;
    plan.slabs = (slabs + plan.slab_group - 1) / plan.slab_group * plan.slab_group;
    const auto capacity = [&](int budget) {
        MaxSimPlan one = plan;
        one.group_columns = 0;
        const int rest = budget - shared_bytes(format, one);
        const int column = plan.slabs * kSlab + column_bytes(format, plan.warpgroups);
        const int panels = rest / (plan.panel * column);
        return rest < 0 ? 0 : panels * plan.panel;
    };
    columns = columns < 1 ? 1 : columns;
    int least = 1 << 30;  // columns to multiply, with 16 a panel for its beginning and end
    MaxSimPlan best = {};
    for (int panel = 32; panel <= 128; panel *= 2) {
        plan.panel = panel;
        plan.columns = (columns + panel - 1) / panel * panel;
        plan.stages = 2;
        plan.warpgroups = owners ? 1 : most_warpgroups(panel);
        while (plan.warpgroups > 1 && capacity(kMostShared) == 0) --plan.warpgroups;
        const int cost = plan.columns + plan.columns / panel * 16;
        if (capacity(kMostShared) > 0 && cost <= least) {
            least = cost;
            best = plan;
        }
    }
    plan = best;
    int share = 1;  // blocks of a multiprocessor
    if (owners)
        for (share = most_warpgroups(plan.panel); share > 1; --share)
            if (capacity(kMostShared / share - 1024) >= plan.columns) break;
    const int budget = share == 1 ? kMostShared : kMostShared / share - 1024;
    const int most = capacity(budget);
    const int passes = (plan.columns + most - 1) / most, panels = plan.columns / plan.panel;
    plan.group_columns = (panels + passes - 1) / passes * plan.panel;
    while (plan.stages < 4 &&
           shared_bytes(format, plan) + plan.warpgroups * stage_bytes(format, plan) <= budget)
        ++plan.stages;
    plan.blocks = multiprocessors * share;
    return plan;
}

struct MaxSimArgs {
    MaxSimPlan plan;
    int size;                     // D
    int num_queries;              // M
    int num_columns;              // R
    const void* queries;          // [R, D]
    const float* weights;         // [R], or null: 1
    const int32_t* query_starts;  // [M + 1], or null: one query

    const uint8_t* values;     // [T, row_bytes]
    const float* scales;       // [T], or null
    const int32_t* codes;      // [T], or null
    const uint8_t* centroids;  // [C, D], or null
    const uint8_t* table;      // weights of fields, [16] or [4], or null
    int num_centroids;         // C

    const int64_t* candidates;  // [K], or null: all documents
    const int32_t* owners;      // [K], or null
    const int64_t* cu_seqlens;  // [N + 1]
    // [K + 1]: where each candidate would start if they lay end to end; cu_seqlens without
    // candidates. One that is no document has no rows.
    const int64_t* starts;
    bool evicts_first;  // documents from the L2 cache: to be measured, for D = 128 and 32 columns
    int64_t num_documents;   // N
    int64_t num_candidates;  // K

    float* maxima;   // [K, columns]: of candidates that lie within one range
    float* partial;  // [ranges, 2, columns]: of those cut by its first row, and by its last
    float* scores;   // [M, K], or [K] with owners
    int64_t scores_stride;
};

// Queues the kernels and returns. `starts` are the M + 1 of the queries; args.query_starts has room
// for them where M is not 1. Throws std::runtime_error with CUDA's words.
void maxsim(int device, void* stream, MaxSimFormat format, const MaxSimArgs& args,
            const int32_t* starts);

// The plan for a device. Throws as above.
MaxSimPlan maxsim_plan(int device, MaxSimFormat format, int size, int columns, bool owners);

}  // namespace cuda
}  // namespace packrank
