// Every op in AVX2, FMA and F16C. The pragma comes after the standard headers: an inline function
// of theirs compiled here for this instruction set could be the copy that the linker keeps for all.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../common/halves.h"
#include "../common/thread_pool.h"
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace packrank::avx2 {
namespace {

#include "simd_avx2.h"
// after the vector type
#include "ops.inc"

}  // namespace
}  // namespace packrank::avx2

#pragma GCC pop_options

namespace packrank::avx2 {
namespace {

bool supported() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

}  // namespace

const Kernels kernels = {"avx2",    supported,      packed_size,    pack_linear,      linear,
                         attention, add_layer_norm, add_rms_norm,   embed_layer_norm, maxsim,
                         matches,   stream,         paged_attention};

}  // namespace packrank::avx2

#else

namespace packrank::avx2 {

const Kernels kernels = {"avx2",  [] { return false; },
                         nullptr, nullptr,
                         nullptr, nullptr,
                         nullptr, nullptr,
                         nullptr, nullptr,
                         nullptr, nullptr};

}  // namespace packrank::avx2

#endif
