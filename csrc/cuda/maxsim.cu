// Launches of the MaxSim kernels. They are for compute capability 9.0 alone: what is built for
// other devices does nothing, and packrank_kernels.backend.cuda_maxsim does not call it.
#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "maxsim.h"
#include "maxsim_sums.h"

namespace packrank {
namespace cuda {
namespace {

constexpr int kNumbers = 512;  // that travel with a launch

struct Numbers {
    int32_t x[kNumbers];
};

// ptxas spills nothing within these bounds.
template <class Documents, int N, bool EVICTED>
__global__ void __launch_bounds__(most_warpgroups(N) * kGroupThreads, 1)
    maxsim_maxima(const __grid_constant__ MaxSimArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    MaximaBlock<Documents, N, EVICTED>(args).run();
#endif
}

__global__ void __launch_bounds__(kSumWarps * 32)
    maxsim_sums(const __grid_constant__ MaxSimArgs args) {
    ScoreWarp(args).run();
}

// Numbers that the host knows, without a copy that the host would wait for.
__global__ void store_numbers(const __grid_constant__ Numbers numbers, int32_t* target, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) target[i] = numbers.x[i];
}

using Kernel = void (*)(MaxSimArgs);

void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // the next call starts without it
    throw std::runtime_error(std::string("maxsim: ") + what + ": " + cudaGetErrorString(error));
}

template <class Documents>
Kernel find_panel(int panel, bool evicts_first = false) {
    if constexpr (Documents::kSize != 0)
        if (evicts_first && panel == 32) return maxsim_maxima<Documents, 32, true>;
    return panel == 32   ? maxsim_maxima<Documents, 32, false>
           : panel == 64 ? maxsim_maxima<Documents, 64, false>
                         : maxsim_maxima<Documents, 128, false>;
}

// Most models have this size: what it gives is computed once, by the compiler.
constexpr int kUsual = 128;

template <class Element, MaxSimFormat FORMAT>
Kernel find_floats(const MaxSimPlan& plan, int size, bool evicts_first) {
    const int panel = plan.panel;
    using Usual = PlainDocuments<Element, float, FORMAT, 4, true, kUsual>;
    return size == kUsual    ? find_panel<Usual>(panel, evicts_first)
           : plan.slabs == 2 ? find_panel<PlainDocuments<Element, float, FORMAT, 2, true>>(panel)
           : plan.slabs == 4 ? find_panel<PlainDocuments<Element, float, FORMAT, 4, true>>(panel)
                             : find_panel<PlainDocuments<Element, float, FORMAT, 4, false>>(panel);
}

template <class Usual, class Whole, class Part>
Kernel find_bytes(const MaxSimPlan& plan, int size, bool evicts_first) {
    return size == kUsual    ? find_panel<Usual>(plan.panel, evicts_first)
           : plan.slabs == 2 ? find_panel<Whole>(plan.panel)
                             : find_panel<Part>(plan.panel);
}

template <int SLABS, bool WHOLE, int SIZE = 0>
using Int8Documents = PlainDocuments<Int8, int32_t, MaxSimFormat::kInt8, SLABS, WHOLE, SIZE>;

Kernel find(MaxSimFormat format, const MaxSimPlan& plan, int size, bool evicts) {
    switch (format) {
        case MaxSimFormat::kFloat16:
            return find_floats<Half, MaxSimFormat::kFloat16>(plan, size, evicts);
        case MaxSimFormat::kBFloat16:
            return find_floats<BFloat16, MaxSimFormat::kBFloat16>(plan, size, evicts);
        case MaxSimFormat::kInt8:
            return find_bytes<Int8Documents<2, true, kUsual>, Int8Documents<2, true>,
                              Int8Documents<2, false>>(plan, size, evicts);
        case MaxSimFormat::k4Bit:
            return find_bytes<ResidualDocuments<4, 2, true, kUsual>, ResidualDocuments<4, 2, true>,
                              ResidualDocuments<4, 2, false>>(plan, size, evicts);
        default:
            return find_bytes<ResidualDocuments<2, 2, true, kUsual>, ResidualDocuments<2, 2, true>,
                              ResidualDocuments<2, 2, false>>(plan, size, evicts);
    }
}

// A kernel may ask for more than 48 KiB of shared memory once it has been told so, on each device.
void allow_shared(Kernel kernel, int device) {
    static std::mutex mutex;
    static std::map<std::pair<Kernel, int>, bool> allowed;
    const std::lock_guard<std::mutex> lock(mutex);
    bool& done = allowed[{kernel, device}];
    if (done) return;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared),
          "shared memory");
    done = true;
}

}  // namespace

MaxSimPlan maxsim_plan(int device, MaxSimFormat format, int size, int columns, bool owners) {
    if (!has_maxsim(format, size))
        throw std::invalid_argument("no MaxSim kernel for size " + std::to_string(size));
    int multiprocessors = 0;
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
          "number of multiprocessors");
    return plan_maxsim(format, size, columns, owners, multiprocessors);
}

void maxsim(int device, void* stream, MaxSimFormat format, const MaxSimArgs& args,
            const int32_t* starts) {
    if (args.num_candidates == 0 || args.num_queries == 0) return;
    // Also where the caller's own runtime has made the device current: this one is linked in.
    check(cudaSetDevice(device), "device");
    const auto queue = static_cast<cudaStream_t>(stream);
    if (args.query_starts != nullptr)
        for (int at = 0; at <= args.num_queries; at += kNumbers) {
            Numbers numbers = {};
            const int count = std::min(kNumbers, args.num_queries + 1 - at);
            std::copy_n(starts + at, count, numbers.x);
            store_numbers<<<1, kNumbers, 0, queue>>>(
                numbers, const_cast<int32_t*>(args.query_starts) + at, count);
            check(cudaGetLastError(), "launch");
        }
    const MaxSimPlan& plan = args.plan;
    if (args.num_columns > 0) {
        const Kernel kernel = find(format, plan, args.size, args.evicts_first);
        allow_shared(kernel, device);
        kernel<<<plan.blocks, plan.warpgroups * kGroupThreads, shared_bytes(format, plan), queue>>>(
            args);
        check(cudaGetLastError(), "launch");
    }
    const int64_t queries = args.owners == nullptr ? args.num_queries : 1;
    const int64_t items = args.num_candidates * ((queries + kQueriesAtOnce - 1) / kQueriesAtOnce);
    const int64_t blocks = (items + kSumWarps - 1) / kSumWarps;
    maxsim_sums<<<static_cast<int>(std::min<int64_t>(blocks, 16 * plan.blocks)), kSumWarps * 32, 0,
                  queue>>>(args);
    check(cudaGetLastError(), "launch");
}

}  // namespace cuda
}  // namespace packrank
