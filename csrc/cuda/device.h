// What the kernels use of the device, one function a PTX instruction. Compiled by anything but
// nvcc, the same functions come from tests/cuda/emulate.h, which runs a block's threads on a
// processor.
#pragma once

#include <cstdint>

namespace packrank {
namespace cuda {

struct Half {};
struct BFloat16 {};

// Eight elements.
struct alignas(16) Vector {
    uint32_t x[4];
};

}  // namespace cuda
}  // namespace packrank

#ifndef __CUDACC__
#include "emulate.h"
#else

#define DEVICE __device__ __forceinline__

namespace packrank {
namespace cuda {

constexpr uint32_t kWholeWarp = 0xffffffff;

DEVICE int thread_index() { return threadIdx.x; }
DEVICE int block_index() { return blockIdx.x; }
DEVICE int num_blocks() { return gridDim.x; }
DEVICE void sync_block() { __syncthreads(); }

// Shared memory is addressed by offsets in bytes, multiples of 16.
DEVICE uint32_t shared_address(int offset) {
    extern __shared__ Vector memory[];
    return static_cast<uint32_t>(__cvta_generic_to_shared(memory)) + offset;
}

template <class T>
DEVICE T shuffle(T x, int lane) {
    return __shfl_sync(kWholeWarp, x, lane);
}
template <class T>
DEVICE T shuffle_up(T x, int distance) {
    return __shfl_up_sync(kWholeWarp, x, distance);
}
template <class T>
DEVICE T shuffle_xor(T x, int mask) {
    return __shfl_xor_sync(kWholeWarp, x, mask);
}
DEVICE uint32_t ballot(bool x) { return __ballot_sync(kWholeWarp, x); }
DEVICE int lowest_bit(uint32_t x) { return __ffs(x) - 1; }

DEVICE float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE Vector load_global(const void* p) {
    const uint4 v = __ldg(static_cast<const uint4*>(p));
    return {{v.x, v.y, v.z, v.w}};
}

DEVICE void store_global(void* p, Vector v) {
    *static_cast<uint4*>(p) = make_uint4(v.x[0], v.x[1], v.x[2], v.x[3]);
}

// 16 bytes to shared memory, zeros if not `whole`. They are there after copies_wait.
DEVICE void copy_async(int target, const void* global, bool whole) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)),
                 "l"(global), "r"(whole ? 16 : 0)
                 : "memory");
}

// For the copies of this thread; sync_block shows them to the others.
DEVICE void copies_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

DEVICE Vector load_shared(int source) {
    Vector v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x[0]), "=r"(v.x[1]), "=r"(v.x[2]), "=r"(v.x[3])
                 : "r"(shared_address(source))
                 : "memory");
    return v;
}

// Four 8 x 8 matrices, transposed; lane 8 i + r gives the offset of row r of matrix i.
DEVICE Vector load_matrices_transposed(int row) {
    Vector v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x[0]), "=r"(v.x[1]), "=r"(v.x[2]), "=r"(v.x[3])
                 : "r"(shared_address(row))
                 : "memory");
    return v;
}

#define PACKRANK_MMA(TYPE)                                                     \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                 \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                       \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

// c [16, 8] += a [16, 16] b [16, 8], spread over the warp as mma.m16n8k16 has them.
DEVICE void multiply(Half, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    PACKRANK_MMA("f16");
}
DEVICE void multiply(BFloat16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    PACKRANK_MMA("bf16");
}
#undef PACKRANK_MMA

DEVICE uint32_t pack(Half, float low, float high) {
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
DEVICE uint32_t pack(BFloat16, float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

DEVICE void unpack(Half, uint32_t x, float& low, float& high) {
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(low), "=f"(high)
        : "r"(x));
}
DEVICE void unpack(BFloat16, uint32_t x, float& low, float& high) {
    low = __uint_as_float(x << 16);
    high = __uint_as_float(x & 0xffff0000u);
}

}  // namespace cuda
}  // namespace packrank
#endif
