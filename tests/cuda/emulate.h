// The device functions of csrc/cuda/device.h on a processor: a block's threads are fibers, and what
// the 32 of a warp do together is computed when the last of them has come, with the fragment
// layouts of the PTX ISA (mma.m16n8k16, ldmatrix).
//
// It is stricter than a device. Between two barriers warps run in random order and any distance
// ahead of each other; an asynchronous copy lands at random when it is issued or when it is waited
// for; shared memory holds NaN before and has its exact size; a read of 16 bytes a lane must use
// no bank twice; lanes of a warp that part ways before a common operation end the program.
#pragma once

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#ifndef __x86_64__
#error "fibers are written for x86-64"
#endif

#define DEVICE inline

namespace packrank {
namespace cuda {
namespace emulate {

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulate: %s\n", what);
    std::abort();
}

enum class Op {
    kNone,
    kBlock,     // sync_block
    kProducts,  // products_wait, of a warpgroup
    kShuffle,
    kBallot,
    kLoad,
    kLoadTransposed,
    kMultiplyHalf,
    kMultiplyBFloat16,
    kDone
};

struct Copy {
    int target;
    const void* source;
    bool whole;
    int bytes;
    int commits = 0;  // after it
};

// A product of a warpgroup that is under way; see emulate_warpgroup.h.
struct Product {
    int type, count;
    void* sums;  // `count` words, which hold nothing until the product is waited for
    std::vector<uint32_t> before;
    const uint32_t* a;
    uint32_t fragment[4];  // of a, where it was read at once
    bool is_read;
    uint64_t b;
    bool more;
};

struct Thread {
    int index = 0;
    Op op = Op::kNone;  // what it waits for
    uint32_t in[10];    // operands; of a load, the offset in shared memory
    uint32_t out[4];
    int partner = 0;  // lane to read from
    std::vector<Copy> copies;
    std::vector<Product> products;
    bool may_multiply = false;
    std::vector<int> unfenced;  // words written that products must not read
    std::unique_ptr<char[]> stack;
    void* top = nullptr;
};

constexpr size_t kStack = 64 << 10;

struct Machine {
    int block = 0, blocks = 0;
    std::mt19937 random;
    bool toward_zero = false;  // products of a warpgroup
    std::unique_ptr<char[]> shared;
    int shared_size = 0;
    std::vector<bool> unfenced;  // words of shared memory
    std::vector<Thread> threads;
    Thread* current = nullptr;
    std::function<void()> body;
    void* scheduler = nullptr;
};

inline Machine machine;

// Leaves one fiber for another: saves the registers that a function must keep and the stack's top
// in *from, takes them from to. swapcontext would make a system call each time.
extern "C" void packrank_switch(void** from, void* to);
asm(R"(
.text
.globl packrank_switch
packrank_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");

inline void wait_for(Op op) {
    Thread* const me = machine.current;
    me->op = op;
    packrank_switch(&me->top, machine.scheduler);
}

inline void thread_main() {
    machine.body();
    if (!machine.current->copies.empty()) fail("a thread ends before its copies have landed");
    if (!machine.current->products.empty()) fail("a thread ends before its products");
    wait_for(Op::kDone);
}

inline char* shared_at(int offset, int bytes = 16) {
    if (offset < 0 || offset % bytes != 0 || offset + bytes > machine.shared_size)
        fail("an offset is outside shared memory");
    return machine.shared.get() + offset;
}

inline void land(const Copy& copy) {
    char* const target = shared_at(copy.target, copy.bytes);
    if (copy.whole)
        std::memcpy(target, copy.source, copy.bytes);
    else
        std::memset(target, 0, copy.bytes);
}

// Computes the products of a warpgroup; see emulate_warpgroup.h.
inline void (*multiply_warpgroup)(Thread*) = nullptr;

inline float to_float(Half, uint32_t bits) {
    const uint32_t sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 31, rest = bits & 1023;
    float y;
    if (exponent == 0) {
        y = std::ldexp(static_cast<float>(rest), -24);
    } else {
        const uint32_t wide =
            exponent == 31 ? 0x7f800000 | rest << 13 : (exponent + 112) << 23 | rest << 13;
        std::memcpy(&y, &wide, 4);
    }
    return sign ? -y : y;
}

inline float to_float(BFloat16, uint32_t bits) {
    const uint32_t wide = bits << 16;
    float y;
    std::memcpy(&y, &wide, 4);
    return y;
}

// Nearest, ties to even.
inline uint32_t to_bits(BFloat16, float x) {
    if (std::isnan(x)) return 0x7fff;
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    return (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
}

inline uint32_t to_bits(Half, float x) {
    if (std::isnan(x)) return 0x7fff;
    const uint32_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (size >= 65520.0f) return sign | 0x7c00;
    int exponent;
    std::frexp(size, &exponent);
    if (exponent < -13 || size == 0.0f) exponent = -13;  // subnormal: steps of 2^-24
    const float steps = std::nearbyint(std::ldexp(size, 11 - exponent));
    return sign | (static_cast<uint32_t>(exponent + 13) * 1024 + static_cast<uint32_t>(steps));
}

inline uint32_t half_word(const uint32_t* words, int i) {
    return words[i / 2] >> (i % 2 * 16) & 0xffff;
}

inline float as_float(uint32_t bits) {
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

template <class T>
void multiply_warp(Thread* lanes) {
    float a[16][16], b[8][16];
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, member = lane % 4;
        for (int i = 0; i < 8; ++i)
            a[group + (i / 2 % 2) * 8][member * 2 + i % 2 + i / 4 * 8] =
                to_float(T(), half_word(lanes[lane].in, i));
        for (int i = 0; i < 4; ++i)
            b[group][member * 2 + i % 2 + i / 2 * 8] =
                to_float(T(), half_word(lanes[lane].in + 4, i));
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            const float* row = a[lane / 4 + i / 2 * 8];
            const float* column = b[lane % 4 * 2 + i % 2];
            float sum = as_float(lanes[lane].in[6 + i]);
            for (int k = 0; k < 16; ++k) sum += row[k] * column[k];
            std::memcpy(&lanes[lane].out[i], &sum, 4);
        }
}

// Lanes [first, first + 8) read 16 bytes each at a time; those that read the same share them.
inline void check_banks(const Thread* lanes) {
    for (int first = 0; first < 32; first += 8)
        for (int i = first; i < first + 8; ++i)
            for (int j = first; j < i; ++j) {
                const uint32_t a = lanes[i].in[0], b = lanes[j].in[0];
                if (a != b && a / 16 % 8 == b / 16 % 8)
                    fail("a read of shared memory uses a bank twice");
            }
}

inline void load_transposed(Thread* lanes) {
    for (int matrix = 0; matrix < 4; ++matrix)
        for (int lane = 0; lane < 32; ++lane) {
            uint32_t word = 0;
            for (int i = 0; i < 2; ++i) {
                uint32_t words[4];
                const int row = lane % 4 * 2 + i;
                std::memcpy(words, shared_at(lanes[matrix * 8 + row].in[0]), 16);
                word |= half_word(words, lane / 4) << 16 * i;
            }
            lanes[lane].out[matrix] = word;
        }
}

// What the warp came to do together.
inline void perform(Thread* lanes) {
    switch (lanes[0].op) {
        case Op::kShuffle:
            for (int i = 0; i < 32; ++i) {
                if (lanes[i].partner < 0 || lanes[i].partner > 31) fail("no such lane");
                lanes[i].out[0] = lanes[lanes[i].partner].in[0];
            }
            break;
        case Op::kBallot: {
            uint32_t all = 0;
            for (int i = 0; i < 32; ++i) all |= lanes[i].in[0] << i;
            for (int i = 0; i < 32; ++i) lanes[i].out[0] = all;
            break;
        }
        case Op::kLoad:
            check_banks(lanes);
            for (int i = 0; i < 32; ++i) std::memcpy(lanes[i].out, shared_at(lanes[i].in[0]), 16);
            break;
        case Op::kLoadTransposed:
            check_banks(lanes);
            load_transposed(lanes);
            break;
        case Op::kMultiplyHalf:
            multiply_warp<Half>(lanes);
            break;
        case Op::kMultiplyBFloat16:
            multiply_warp<BFloat16>(lanes);
            break;
        default:
            fail("no such operation");
    }
}

// Runs a warp until its lanes wait for something; true where that was an operation of the warp.
inline bool advance(Thread* lanes) {
    const int first = machine.random() % 32;
    for (int i = 0; i < 32; ++i) {
        machine.current = &lanes[(first + i) % 32];
        packrank_switch(&machine.scheduler, machine.current->top);
    }
    for (int i = 1; i < 32; ++i)
        if (lanes[i].op != lanes[0].op) fail("the lanes of a warp part ways");
    const Op op = lanes[0].op;
    if (op == Op::kBlock || op == Op::kProducts || op == Op::kDone) return false;
    perform(lanes);
    return true;
}

// Where all four warps have come to wait for their products: these, and the number of warps that go
// on.
inline int release_warpgroup(int first, std::vector<bool>& waits) {
    for (int warp = first; warp < first + 4; ++warp)
        if (static_cast<size_t>(warp) >= waits.size() || !waits[warp] ||
            machine.threads[32 * warp].op != Op::kProducts)
            return 0;
    multiply_warpgroup(&machine.threads[32 * first]);
    for (int warp = first; warp < first + 4; ++warp) waits[warp] = false;
    return 4;
}

inline void run_block(int num_threads) {
    std::memset(machine.shared.get(), 0xff, machine.shared_size);
    machine.unfenced.assign(machine.shared_size / 4, false);
    machine.threads.resize(num_threads);
    for (int i = 0; i < num_threads; ++i) {
        Thread& thread = machine.threads[i];
        thread.index = i;
        thread.op = Op::kNone;
        thread.may_multiply = false;
        thread.unfenced.clear();
        if (!thread.stack) thread.stack.reset(new char[kStack]);
        // The one before never left its last function, whose frame is still forbidden ground.
        ASAN_UNPOISON_MEMORY_REGION(thread.stack.get(), kStack);
        // As packrank_switch leaves it: six registers, where to go, and no way back.
        auto* top = reinterpret_cast<uintptr_t*>(thread.stack.get() + kStack);
        std::fill(top - 8, top, uintptr_t{0});
        top[-2] = reinterpret_cast<uintptr_t>(&thread_main);
        thread.top = top - 8;
    }
    const int warps = num_threads / 32;
    std::vector<bool> waits(warps, false);
    for (int left = warps; left > 0;) {
        int warp = machine.random() % warps;
        while (waits[warp]) warp = (warp + 1) % warps;
        // A run of random length, so that a warp may be far ahead of the others.
        for (int steps = 1 << machine.random() % 12; steps > 0; --steps)
            if (!advance(&machine.threads[32 * warp])) {
                waits[warp] = true;
                --left;
                left += release_warpgroup(warp / 4 * 4, waits);
                break;
            }
        if (left > 0) continue;
        const Op op = machine.threads[0].op;
        for (const Thread& thread : machine.threads)
            if (thread.op != op) fail("some threads end where others wait for them");
        if (op == Op::kDone) return;
        waits.assign(warps, false);
        left = warps;
    }
}

// kernel<<<blocks, threads, shared_bytes>>>, blocks in random order.
inline void launch(int blocks, int threads, int shared_bytes, uint32_t seed,
                   std::function<void()> body) {
    machine.random.seed(seed);
    machine.blocks = blocks;
    machine.body = std::move(body);
    machine.shared.reset(new char[shared_bytes]);
    machine.shared_size = shared_bytes;
    const int first = machine.random() % blocks;
    for (int i = 0; i < blocks; ++i) {
        machine.block = (first + i) % blocks;
        run_block(threads);
    }
}

inline void start_copy(const Copy& copy) {
    if (reinterpret_cast<uintptr_t>(copy.source) % copy.bytes != 0) fail("a copy is not aligned");
    // Read or not: compute-sanitizer may object to it.
    if (__asan_address_is_poisoned(copy.source)) fail("a copy has an address outside its array");
    if (machine.random() % 2)
        land(copy);
    else
        machine.current->copies.push_back(copy);
}

inline uint32_t shuffle_word(uint32_t x, int partner) {
    Thread& me = *machine.current;
    me.in[0] = x;
    me.partner = partner;
    wait_for(Op::kShuffle);
    return me.out[0];
}

template <class T>
T shuffle_any(T x, int partner) {
    static_assert(sizeof(T) == 4, "");
    uint32_t word;
    std::memcpy(&word, &x, 4);
    word = shuffle_word(word, partner);
    std::memcpy(&x, &word, 4);
    return x;
}

inline void multiply(Op op, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Thread& me = *machine.current;
    std::memcpy(me.in, a, 16);
    me.in[4] = b0;
    me.in[5] = b1;
    std::memcpy(me.in + 6, c, 16);
    wait_for(op);
    std::memcpy(c, me.out, 16);
}

inline Vector load(Op op, int offset) {
    Thread& me = *machine.current;
    me.in[0] = offset;
    wait_for(op);
    Vector v;
    std::memcpy(v.x, me.out, 16);
    return v;
}

}  // namespace emulate

inline int thread_index() { return emulate::machine.current->index; }
inline int block_index() { return emulate::machine.block; }
inline int num_blocks() { return emulate::machine.blocks; }
inline void sync_block() { emulate::wait_for(emulate::Op::kBlock); }

template <class T>
T shuffle(T x, int lane) {
    return emulate::shuffle_any(x, lane);
}
template <class T>
T shuffle_up(T x, int distance) {
    const int lane = thread_index() % 32;
    return emulate::shuffle_any(x, lane < distance ? lane : lane - distance);
}
template <class T>
T shuffle_xor(T x, int mask) {
    return emulate::shuffle_any(x, thread_index() % 32 ^ mask);
}

inline uint32_t ballot(bool x) {
    emulate::Thread& me = *emulate::machine.current;
    me.in[0] = x;
    emulate::wait_for(emulate::Op::kBallot);
    return me.out[0];
}
inline int lowest_bit(uint32_t x) { return __builtin_ctz(x); }

// ex2.approx is right to 2^-22.
inline float exp2_of(float x) { return std::exp2(x); }

inline Vector load_global(const void* p) { return *static_cast<const Vector*>(p); }
inline void store_global(void* p, Vector v) { *static_cast<Vector*>(p) = v; }

inline void copy_async(int target, const void* global, bool whole) {
    emulate::start_copy({target, global, whole, 16});
}

inline void copies_wait() {
    for (const emulate::Copy& copy : emulate::machine.current->copies) emulate::land(copy);
    emulate::machine.current->copies.clear();
}

inline Vector load_shared(int source) { return emulate::load(emulate::Op::kLoad, source); }
inline Vector load_matrices_transposed(int row) {
    return emulate::load(emulate::Op::kLoadTransposed, row);
}

inline void multiply(Half, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulate::multiply(emulate::Op::kMultiplyHalf, c, a, b0, b1);
}
inline void multiply(BFloat16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulate::multiply(emulate::Op::kMultiplyBFloat16, c, a, b0, b1);
}

template <class T>
uint32_t pack(T type, float low, float high) {
    return emulate::to_bits(type, low) | emulate::to_bits(type, high) << 16;
}
template <class T>
void unpack(T type, uint32_t x, float& low, float& high) {
    low = emulate::to_float(type, x & 0xffff);
    high = emulate::to_float(type, x >> 16);
}

}  // namespace cuda
}  // namespace packrank
