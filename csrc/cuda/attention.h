// Packed attention for short sequences on CUDA devices: arguments, and how a launch is cut up.
// Plain C++: the launcher, the bindings and the tests on a processor share it.
#pragma once

#include <cstdint>

namespace packrank {
namespace cuda {

enum class Dtype : int { kFloat16 = 0, kBFloat16 = 1 };

constexpr int kWarps = 4;  // of a block
constexpr int kThreads = 32 * kWarps;
constexpr int kMostKeys = 256;     // of a sequence
constexpr int kCapacityStep = 64;  // keys; also what a block of short sequences needs
constexpr int kWidest = 1 << 30;   // a window that hides nothing
// log2 of the queries that share one staging of keys and values; at least one tile of 16 a warp.
constexpr int kMostLogUnitRows = 8;
constexpr int kLeastLogUnitRows = 6;

// A packed tensor [tokens, heads, size] of 2-byte elements whose last dimension is contiguous. The
// address is a multiple of 16 bytes, each stride a multiple of 8 elements.
struct Strided {
    const void* data;
    int64_t token_stride;
    int64_t head_stride;
};

struct AttentionArgs {
    Strided q, k, v;
    void* out;  // [Tq, H, D] contiguous
    const int32_t* cu_seqlens_q;
    const int32_t* cu_seqlens_k;
    int num_sequences, num_heads;
    float scale;        // times log2(e)
    int window;         // a key is visible up to this far away; kWidest: everywhere
    int capacity;       // keys that the shared memory holds; a longer sequence's rows become NaN
    int log_unit_rows;  // log2 of the queries of a unit
};

// Keys that a block makes room for, where no sequence has more than max_keys.
constexpr int capacity_for(int max_keys) {
    const int steps = (max_keys + kCapacityStep - 1) / kCapacityStep;
    return (steps < 1 ? 1 : steps) * kCapacityStep;
}

constexpr int shared_bytes(int capacity, int head_size) { return 2 * capacity * head_size * 2; }

// At least as many as the units of any pack of this many queries and sequences.
constexpr int64_t most_units(int64_t queries, int64_t sequences, int64_t heads, int log_unit_rows) {
    const int64_t parts = (queries >> log_unit_rows) + sequences;
    return (parts < queries ? parts : queries) * heads;
}

// log2 of as many queries a unit as leave two units for every block that the device holds at once:
// the more, the less often keys are read again; the fewer, the more blocks have work. Results are
// the same.
constexpr int log_unit_rows_for(int64_t queries, int64_t heads, int64_t resident_blocks) {
    int log = kMostLogUnitRows;
    while (log > kLeastLogUnitRows && (queries >> log) * heads < 2 * resident_blocks) --log;
    return log;
}

struct Call {
    Dtype dtype;
    int head_size;        // 32 or 64
    int64_t num_queries;  // of the pack
    int max_keys;         // of a sequence
    bool one_query;       // no sequence has more than one query
    int device;           // its number
    void* stream;         // a cudaStream_t
    AttentionArgs args;   // capacity and log_unit_rows are filled in by the launch
};

using AttentionKernel = void (*)(AttentionArgs);

// The kernel of tiles of head size 64 (attention_64.cu).
AttentionKernel attention_tiles_64(Dtype dtype);

// Number of CUDA devices. Throws std::runtime_error with CUDA's words.
int device_count();

// Queues the kernel and returns. Throws std::runtime_error with CUDA's words.
void attention(const Call& call);

}  // namespace cuda
}  // namespace packrank
