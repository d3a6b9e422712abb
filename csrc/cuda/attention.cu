// Launches of the attention kernels: once a device, what it holds; a call, how many blocks.
#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "attention.h"
#include "attention_row.h"
#include "attention_tiles.h"

namespace packrank {
namespace cuda {
namespace {

// As many blocks as of the tiles: 80 to 87 registers, none spilled.
template <class T, int D>
__global__ void __launch_bounds__(kThreads, 4)
    attention_row(const __grid_constant__ AttentionArgs args) {
    RowWarp<T, D>(args).run();
}

void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // the next call starts without it
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

AttentionKernel find(Dtype dtype, int head_size, bool one_query) {
    if (head_size != 32 && head_size != 64)
        throw std::invalid_argument("no attention kernel for head size " +
                                    std::to_string(head_size));
    const bool is_half = dtype == Dtype::kFloat16;
    if (head_size == 64 && !one_query) return attention_tiles_64(dtype);
    if (head_size == 64) return is_half ? attention_row<Half, 64> : attention_row<BFloat16, 64>;
    if (one_query) return is_half ? attention_row<Half, 32> : attention_row<BFloat16, 32>;
    return is_half ? attention_tiles<Half, 32> : attention_tiles<BFloat16, 32>;
}

// Blocks of a kernel that a device holds at once, asked for once.
int resident_blocks(AttentionKernel kernel, int device, int bytes) {
    static std::mutex mutex;
    static std::map<std::tuple<AttentionKernel, int, int>, int> known;
    const std::lock_guard<std::mutex> lock(mutex);
    int& blocks = known[{kernel, device, bytes}];
    if (blocks == 0) {
        int multiprocessors = 0, each = 0;
        check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
              "attention: number of multiprocessors");
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   shared_bytes(kMostKeys, 64)),
              "attention: shared memory");
        check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, kThreads, bytes),
              "attention: blocks of a multiprocessor");
        if (each < 1) throw std::runtime_error("attention: a block does not fit the device");
        blocks = each * multiprocessors;
    }
    return blocks;
}

}  // namespace

int device_count() {
    int count = 0;
    check(cudaGetDeviceCount(&count), "number of CUDA devices");
    return count;
}

void attention(const Call& call) {
    if (call.num_queries == 0 || call.args.num_sequences == 0 || call.args.num_heads == 0) return;
    const AttentionKernel kernel = find(call.dtype, call.head_size, call.one_query);
    if (!call.one_query && call.max_keys > kMostKeys)
        throw std::invalid_argument("no attention kernel for sequences of more than " +
                                    std::to_string(kMostKeys) + " keys");
    // Also where the caller's own runtime has made the device current: this one is linked in.
    check(cudaSetDevice(call.device), "attention: device");
    AttentionArgs args = call.args;
    args.capacity = call.one_query ? 0 : capacity_for(call.max_keys);
    const int bytes = call.one_query ? 0 : shared_bytes(args.capacity, call.head_size);
    const int64_t resident = resident_blocks(kernel, call.device, bytes);
    args.log_unit_rows = log_unit_rows_for(call.num_queries, args.num_heads, resident);
    const int64_t work =
        call.one_query
            ? (static_cast<int64_t>(args.num_sequences) * args.num_heads + kWarps - 1) / kWarps
            : most_units(call.num_queries, args.num_sequences, args.num_heads, args.log_unit_rows);
    const int blocks = static_cast<int>(work < resident ? work : resident);
    kernel<<<blocks, kThreads, bytes, static_cast<cudaStream_t>(call.stream)>>>(args);
    check(cudaGetLastError(), "attention: launch");
}

}  // namespace cuda
}  // namespace packrank
