// Every op in AVX-512 with BF16 and VNNI. The pragma comes after the standard headers: an inline
// function of theirs compiled here for this instruction set could be the copy that the linker keeps
// for all.
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
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma")

namespace packrank::avx512 {
namespace {

#include "simd_avx512.h"
// after the vector type
#include "ops.inc"

}  // namespace
}  // namespace packrank::avx512

#pragma GCC pop_options

namespace packrank::avx512 {
namespace {

bool supported() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

}  // namespace

const Kernels kernels = {"avx512",  supported,      packed_size,    pack_linear,      linear,
                         attention, add_layer_norm, add_rms_norm,   embed_layer_norm, maxsim,
                         matches,   stream,         paged_attention};

}  // namespace packrank::avx512

#else

namespace packrank::avx512 {

const Kernels kernels = {"avx512", [] { return false; }};

}  // namespace packrank::avx512

#endif
