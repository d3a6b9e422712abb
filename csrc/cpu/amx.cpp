// Linear layers in bfloat16 on AMX (Sapphire Rapids and newer); everything else is AVX-512's.
// The pragma comes after the standard headers, as in avx512.cpp.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../common/halves.h"
#include "../common/thread_pool.h"
#include "kernels.h"

#if defined(__x86_64__) && defined(__linux__) && __GNUC__ >= 11  // it knows the tiles
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,amx-tile,amx-bf16")

namespace packrank::amx {
namespace {

#include "simd_avx512.h"
// after the vector type
#include "ops.inc"
// after the layers
#include "tiles.h"

void linear_in_tiles(const LinearArgs& args) { linear_typed<BFloat16, InTiles>(args); }

}  // namespace
}  // namespace packrank::amx

#pragma GCC pop_options

namespace packrank::amx {
namespace {

// Whether the processor has it, and the system lets this process use it: tiles are kept for a
// thread only if its process has asked.
bool supported() {
    unsigned a, b, c, d;
    if (!avx512::kernels.supported() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned kBFloat16 = 1u << 22, kTile = 1u << 24;
    if ((d & kBFloat16) == 0 || (d & kTile) == 0) return false;
    constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return ::syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
}

}  // namespace

const Kernels kernels = {"amx", supported, packed_size, pack_linear, linear_in_tiles};

}  // namespace packrank::amx

#else

namespace packrank::amx {

const Kernels kernels = {"amx", [] { return false; }};

}  // namespace packrank::amx

#endif
