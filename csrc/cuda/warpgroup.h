// What MaxSim uses of the device beside device.h: copies in stages, and wgmma, the product of a
// warpgroup. Compiled by anything but nvcc, the same functions come from tests/cuda.
#pragma once

#include "device.h"

namespace packrank {
namespace cuda {

struct Int8 {};
struct UInt8 {};  // times Int8

// How wgmma finds a matrix in shared memory that is not swizzled and lies along k: core matrices of
// 8 rows of 16 bytes, 128 bytes each; `leading` bytes from one to the next along k, `stride` bytes
// along the rows (PTX ISA, "Matrix Descriptor Format").
DEVICE uint64_t matrix_descriptor(uint32_t address, int leading, int stride) {
    return (address & 0x3ffff) >> 4 | static_cast<uint32_t>(leading >> 4) << 16 |
           static_cast<uint64_t>(stride >> 4) << 32;
}

// Of a matrix that begins `bytes` later.
DEVICE uint64_t later_matrix(uint64_t descriptor, int bytes) {
    const uint32_t low = static_cast<uint32_t>(descriptor) + static_cast<uint32_t>(bytes >> 4);
    return descriptor >> 32 << 32 | low;
}

}  // namespace cuda
}  // namespace packrank

#ifndef __CUDACC__
#include "emulate_warpgroup.h"
#else

namespace packrank {
namespace cuda {

DEVICE int count_bits(uint32_t x) { return __popc(x); }
DEVICE float bits_to_float(uint32_t x) { return __uint_as_float(x); }
DEVICE uint32_t float_to_bits(float x) { return __float_as_uint(x); }

// Never fused.
DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
DEVICE float sum(float a, float b) { return __fadd_rn(a, b); }

// a b + c, rounded once.
DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Volatile, so that they stay where they are and what they give is not kept for a whole tile.
DEVICE float to_float(int32_t x) {
    float y;
    asm volatile("cvt.rn.f32.s32 %0, %1;" : "=f"(y) : "r"(x));
    return y;
}
DEVICE float to_float(float x) { return x; }

// NaN where either is.
DEVICE float maximum(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

// Byte i of the result is the byte of {b, a} that nibble i of the selector, of 16 bits, numbers by
// its lower 3 bits; or, where its highest is set, that byte's sign eight times.
DEVICE uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    uint32_t y;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(selector));
    return y;
}

template <class T>
DEVICE T load_constant(const T* p) {
    return __ldg(p);
}

// `count` times so many bytes after p. One instruction of the unit that multiplies, where shifts
// and sums take three of one that has more to do.
template <class T>
DEVICE const T* element(const T* p, int count, int bytes) {
    const T* q;
    asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(q) : "r"(count), "r"(bytes), "l"(p));
    return q;
}

// BYTES to shared memory, zeros if not `whole`; a copy belongs to the next commit of its thread.
// Where it is EVICTED first, the L2 cache is told that nobody will read it again.
template <int BYTES, bool EVICTED = false>
DEVICE void copy_stage(int target, const void* global, bool whole) {
    static_assert(BYTES == 16 || BYTES == 8 || BYTES == 4, "");
#define PACKRANK_COPY(CACHE, POLICY, HINT, POLICY_NAME)                                 \
    asm volatile("{.reg .pred none; setp.eq.b32 none, %3, 0; " POLICY "cp.async." CACHE \
                 ".shared.global" HINT " [%0], [%1], %2, none" POLICY_NAME              \
                 ";}" ::"r"(shared_address(target)),                                    \
                 "l"(global), "n"(BYTES), "r"(static_cast<int>(whole))                  \
                 : "memory")
#define PACKRANK_EVICTED(CACHE)                                                                  \
    PACKRANK_COPY(CACHE,                                                                         \
                  ".reg .b64 policy; createpolicy.fractional.L2::evict_first.b64 policy, 1.0; ", \
                  ".L2::cache_hint", ", policy")
    if constexpr (EVICTED && BYTES == 16)
        PACKRANK_EVICTED("cg");
    else if constexpr (EVICTED)
        PACKRANK_EVICTED("ca");
    else if constexpr (BYTES == 16)
        PACKRANK_COPY("cg", "", "", "");
    else
        PACKRANK_COPY("ca", "", "", "");
#undef PACKRANK_EVICTED
#undef PACKRANK_COPY
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// For this thread's commits but the last `pending`, 0 to 2.
DEVICE void copies_wait_but(int pending) {
    if (pending == 2)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else if (pending == 1)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 0;" ::: "memory");
}

DEVICE uint32_t load_word(int offset) {
    uint32_t x;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(shared_address(offset)) : "memory");
    return x;
}
DEVICE void store_word(int offset, uint32_t x) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(shared_address(offset)), "r"(x) : "memory");
}

// Before the barrier between this thread's writes to shared memory and a product that reads them.
DEVICE void fence_for_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// From here on for compute capability 9.0 alone (sm_90a).

// Before the first product after what it reads or writes in registers has changed.
template <int COUNT>
DEVICE void products_begin(uint32_t (&a)[COUNT][2][4]) {
#pragma unroll
    for (int i = 0; i < COUNT * 8; ++i)
        asm volatile("" : "+r"(a[i / 8][i / 4 % 2][i % 4])::"memory");
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Waits for the products of this thread's warpgroup; before, their sums are not there.
template <class Sum, int COUNT>
DEVICE void products_wait(Sum (&c)[COUNT]) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        if constexpr (static_cast<Sum>(0.5f) != 0)
            asm volatile("" : "+f"(c[i])::"memory");
        else
            asm volatile("" : "+r"(c[i])::"memory");
    }
}

#define PACKRANK_4(C, c, i) C(c[i]), C(c[i + 1]), C(c[i + 2]), C(c[i + 3])
#define PACKRANK_16(C, c, i) \
    PACKRANK_4(C, c, i), PACKRANK_4(C, c, i + 4), PACKRANK_4(C, c, i + 8), PACKRANK_4(C, c, i + 12)
#define PACKRANK_32(C, c, i) PACKRANK_16(C, c, i), PACKRANK_16(C, c, i + 16)
#define PACKRANK_64(C, c, i) PACKRANK_32(C, c, i), PACKRANK_32(C, c, i + 32)
#define PACKRANK_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PACKRANK_NAMES_32 \
    PACKRANK_NAMES_16     \
    ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PACKRANK_NAMES_64                                                              \
    PACKRANK_NAMES_32                                                                  \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PACKRANK_FLOAT(x) "+f"(x)
#define PACKRANK_INTEGER(x) "+r"(x)

// c [64, N] = a [64, 32 bytes] b [N, 32 bytes]^T, plus c if `more`; c and a are spread over the
// warpgroup as wgmma has them, b is found through its descriptor.
#define PACKRANK_WGMMA(ELEMENT, SUM, C, SHAPE, TYPES, COUNT, MORE, OPERANDS)                    \
    DEVICE void multiply_group(ELEMENT, SUM(&c)[COUNT], const uint32_t (&a)[4], uint64_t b,     \
                               bool more) {                                                     \
        asm volatile(                                                                           \
            "{.reg .pred p; setp.ne.b32 p, " MORE ", 0; wgmma.mma_async.sync.aligned." SHAPE    \
            "." TYPES " {" PACKRANK_NAMES_##COUNT "}, " OPERANDS ";}"                           \
            : PACKRANK_##COUNT(C, c, 0)                                                         \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(more))); \
    }
#define PACKRANK_PANELS(ELEMENT, SUM, C, K, TYPES, REST)           \
    PACKRANK_WGMMA(ELEMENT, SUM, C, "m64n32" K, TYPES, 16, "%21",  \
                   "{%16, %17, %18, %19}, %20, p" REST)            \
    PACKRANK_WGMMA(ELEMENT, SUM, C, "m64n64" K, TYPES, 32, "%37",  \
                   "{%32, %33, %34, %35}, %36, p" REST)            \
    PACKRANK_WGMMA(ELEMENT, SUM, C, "m64n128" K, TYPES, 64, "%69", \
                   "{%64, %65, %66, %67}, %68, p" REST)

PACKRANK_PANELS(Half, float, PACKRANK_FLOAT, "k16", "f32.f16.f16", ", 1, 1, 0")
PACKRANK_PANELS(BFloat16, float, PACKRANK_FLOAT, "k16", "f32.bf16.bf16", ", 1, 1, 0")
PACKRANK_PANELS(Int8, int32_t, PACKRANK_INTEGER, "k32", "s32.s8.s8", "")
PACKRANK_PANELS(UInt8, int32_t, PACKRANK_INTEGER, "k32", "s32.u8.s8", "")

#undef PACKRANK_PANELS
#undef PACKRANK_WGMMA

}  // namespace cuda
}  // namespace packrank
#endif
