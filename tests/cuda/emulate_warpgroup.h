// The device functions of csrc/cuda/warpgroup.h on a processor; see emulate.h. A product of a
// warpgroup is computed when its four warps wait for it, with the layouts of the PTX ISA ("Register
// Fragments and Shared Memory Matrix Layouts" of wgmma); until then its sums hold poison. Its
// fragment of A is read at random when it is issued or then; what it reads of shared memory must
// have been written before a fence of the writing thread. Sums are rounded to nearest or, where
// `toward_zero` says so, toward zero.
#pragma once

namespace packrank {
namespace cuda {
namespace emulate {

constexpr uint32_t kShared = 1024;  // address of shared memory

constexpr int kGroupThreads = 128;
constexpr int kRows = 64;  // of A

template <class T>
constexpr int type_of();
template <>
constexpr int type_of<Half>() {
    return 0;
}
template <>
constexpr int type_of<BFloat16>() {
    return 1;
}
template <>
constexpr int type_of<Int8>() {
    return 2;
}
template <>
constexpr int type_of<UInt8>() {
    return 3;
}

// A core matrix's row: 16 bytes.
inline void read_core(uint32_t address, char* target) {
    if (address < kShared || address % 16 != 0) fail("a descriptor is wrong");
    const int offset = static_cast<int>(address - kShared);
    std::memcpy(target, shared_at(offset), 16);
    for (int word = 0; word < 4; ++word)
        if (machine.unfenced[offset / 4 + word]) fail("a product reads what is not fenced");
}

// 32 bytes of k.
template <class Sum>
void widen(int type, const char* bytes, Sum* target) {
    for (int k = 0; k < (type >= 2 ? 32 : 16); ++k) {
        uint16_t x;
        std::memcpy(&x, bytes + (type >= 2 ? 0 : 2 * k), 2);
        target[k] = static_cast<Sum>(type == 0   ? to_float(Half(), x)
                                     : type == 1 ? to_float(BFloat16(), x)
                                     : type == 2 ? static_cast<signed char>(bytes[k])
                                                 : static_cast<unsigned char>(bytes[k]));
    }
}

// c + a b, of 16 elements, as tensor cores may round it at worst: what is added is aligned with the
// largest of it and cut off at its 24 bits, and so is the sum (Fasi et al., "Numerical behavior of
// NVIDIA tensor cores", 2021; Hopper keeps more bits).
inline float add_toward_zero(const float* a, const float* b, float c) {
    double terms[17], largest = std::fabs(c), total = 0.0;
    terms[16] = c;
    for (int k = 0; k < 16; ++k) {
        terms[k] = static_cast<double>(a[k]) * b[k];
        largest = std::max(largest, std::fabs(terms[k]));
        total += terms[k];
    }
    if (!std::isfinite(total + c)) return static_cast<float>(total + c);
    int exponent;
    std::frexp(largest, &exponent);
    total = 0.0;
    for (double term : terms) total += std::trunc(std::ldexp(term, 24 - exponent));
    total = std::ldexp(total, exponent - 24);
    const auto sum = static_cast<float>(total);
    return std::fabs(sum) > std::fabs(total) ? std::nextafter(sum, 0.0f) : sum;
}

template <class Sum>
void multiply_one(Thread* threads, size_t index, std::vector<Sum>* sums) {
    const Product& product = threads[0].products[index];
    const int columns = product.count * 2, elements = product.type >= 2 ? 32 : 16;
    char bytes[kRows][32];
    for (int i = 0; i < kGroupThreads; ++i) {
        const Product& mine = threads[i].products[index];
        const int lane = i % 32;
        for (int part = 0; part < 4; ++part)
            std::memcpy(bytes[i / 32 * 16 + lane / 4 + part % 2 * 8] + part / 2 * 16 + lane % 4 * 4,
                        (mine.is_read ? mine.fragment : mine.a) + part, 4);
    }
    Sum a[kRows][32], b[128][32];
    for (int m = 0; m < kRows; ++m) widen(product.type, bytes[m], a[m]);
    // Start, leading and stride offsets in units of 16 bytes; no base offset, no swizzling.
    const uint64_t descriptor = product.b;
    if (descriptor >> 46 != 0 || (descriptor & 0xc000c000u) != 0) fail("a descriptor is wrong");
    const auto field = [&](int shift) {
        return static_cast<uint32_t>(descriptor >> shift & 0x3fff) * 16;
    };
    for (int n = 0; n < columns; ++n) {
        char row[32];
        for (int half = 0; half < 2; ++half)
            read_core(field(0) + half * field(16) + n / 8 * field(32) + n % 8 * 16,
                      row + half * 16);
        widen(std::min(product.type, 2), row, b[n]);
    }
    for (int i = 0; i < kGroupThreads; ++i)
        for (int j = 0; j < product.count; ++j) {
            const Sum* const row = a[i / 32 * 16 + i % 32 / 4 + j / 2 % 2 * 8];
            const Sum* const column = b[j / 4 * 8 + i % 4 * 2 + j % 2];
            Sum total = product.more ? sums[i][j] : 0;
            if constexpr (std::is_same_v<Sum, float>) {
                if (machine.toward_zero) {
                    sums[i][j] = add_toward_zero(row, column, total);
                    continue;
                }
            }
            for (int k = 0; k < elements; ++k) total += row[k] * column[k];
            sums[i][j] = total;
        }
}

template <class Sum>
void multiply_all(Thread* threads) {
    std::vector<std::vector<Sum>> sums(kGroupThreads);
    for (int i = 0; i < kGroupThreads; ++i) {
        const Product& first = threads[i].products[0];
        sums[i].resize(first.count);
        std::memcpy(sums[i].data(), first.before.data(), first.count * 4);
    }
    for (size_t index = 0; index < threads[0].products.size(); ++index)
        multiply_one(threads, index, sums.data());
    for (int i = 0; i < kGroupThreads; ++i)
        std::memcpy(threads[i].products[0].sums, sums[i].data(), sums[i].size() * 4);
}

inline void multiply_products(Thread* threads) {
    for (int i = 0; i < kGroupThreads; ++i) {
        const auto &mine = threads[i].products, &others = threads[0].products;
        if (mine.empty() || mine.size() != others.size()) fail("a warpgroup parts ways");
        for (size_t j = 0; j < mine.size(); ++j)
            if (mine[j].b != others[j].b || mine[j].more != others[j].more ||
                mine[j].count != others[j].count || mine[j].type != others[j].type ||
                mine[j].sums != mine[0].sums)
                fail("threads of a warpgroup multiply different things");
    }
    if (threads[0].products[0].type >= 2)
        multiply_all<int32_t>(threads);
    else
        multiply_all<float>(threads);
    for (int i = 0; i < kGroupThreads; ++i) {
        threads[i].products.clear();
        threads[i].may_multiply = false;
    }
}

}  // namespace emulate

inline int count_bits(uint32_t x) { return __builtin_popcount(x); }
inline float bits_to_float(uint32_t x) { return emulate::as_float(x); }
inline uint32_t float_to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float product(float a, float b) { return a * b; }
inline float sum(float a, float b) { return a + b; }
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline float to_float(int32_t x) { return static_cast<float>(x); }
inline float to_float(float x) { return x; }
inline float maximum(float a, float b) {
    return std::isnan(a) || std::isnan(b) ? bits_to_float(0x7fffffff) : a < b ? b : a;
}

inline uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    uint32_t y = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t which = selector >> 4 * i & 15, byte = bytes >> 8 * (which & 7) & 0xff;
        y |= (which < 8 ? byte : byte < 128 ? 0u : 255u) << 8 * i;
    }
    return y;
}

template <class T>
T load_constant(const T* p) {
    return *p;
}

template <class T>
const T* element(const T* p, int count, int bytes) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(p) +
                                      static_cast<int64_t>(count) * bytes);
}

template <int BYTES, bool EVICTED = false>
void copy_stage(int target, const void* global, bool whole) {
    emulate::start_copy({target, global, whole, BYTES});
}

inline void copies_commit() {
    for (emulate::Copy& copy : emulate::machine.current->copies) ++copy.commits;
}

inline void copies_wait_but(int pending) {
    if (pending < 0 || pending > 2) emulate::fail("no such number of commits");
    auto& copies = emulate::machine.current->copies;
    const auto landed = [&](const emulate::Copy& copy) {
        // Of those that may still be under way some have landed.
        if (copy.commits <= pending && (copy.commits == 0 || emulate::machine.random() % 2))
            return false;
        emulate::land(copy);
        return true;
    };
    copies.erase(std::remove_if(copies.begin(), copies.end(), landed), copies.end());
}

inline uint32_t shared_address(int offset) { return emulate::kShared + offset; }

inline uint32_t load_word(int offset) {
    uint32_t x;
    std::memcpy(&x, emulate::shared_at(offset, 4), 4);
    return x;
}
inline void store_word(int offset, uint32_t x) {
    std::memcpy(emulate::shared_at(offset, 4), &x, 4);
    emulate::machine.unfenced[offset / 4] = true;
    emulate::machine.current->unfenced.push_back(offset / 4);
}
inline void fence_for_products() {
    auto& words = emulate::machine.current->unfenced;
    for (int word : words) emulate::machine.unfenced[word] = false;
    words.clear();
}

template <int COUNT>
void products_begin(uint32_t (&)[COUNT][2][4]) {
    emulate::machine.current->may_multiply = true;
}

template <class T, class Sum, int COUNT>
void multiply_group(T, Sum (&c)[COUNT], const uint32_t (&a)[4], uint64_t b, bool more) {
    emulate::Thread& me = *emulate::machine.current;
    if (!me.may_multiply) emulate::fail("a product without a fence before it");
    emulate::Product product = {emulate::type_of<T>(), COUNT, c, {}, a, {}, false, b, more};
    if (me.products.empty()) {
        product.before.resize(COUNT);
        std::memcpy(product.before.data(), c, sizeof(c));
        std::memset(c, 0xff, sizeof(c));
    }
    if (emulate::machine.random() % 2) {
        std::memcpy(product.fragment, a, 16);
        product.is_read = true;
    }
    me.products.push_back(product);
}

template <class Sum, int COUNT>
void products_wait(Sum (&c)[COUNT]) {
    emulate::Thread& me = *emulate::machine.current;
    if (me.products.empty() || me.products[0].sums != c) emulate::fail("nothing to wait for");
    emulate::multiply_warpgroup = emulate::multiply_products;
    emulate::wait_for(emulate::Op::kProducts);
}

}  // namespace cuda
}  // namespace packrank
