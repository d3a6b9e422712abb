// The attention kernels of csrc/cuda, run by emulate.h on random packs against a definition in
// float64. Built with the address sanitizer by tests/kernels/backend/test_cuda.py: tensors have
// their exact size, so that a read or write outside one ends the program, and outputs hold NaN
// before.
#include <algorithm>
#include <cstdio>
#include <string>

#include "attention.h"
#include "attention_row.h"
#include "attention_tiles.h"

using namespace packrank::cuda;

namespace {

std::mt19937 random_bits;
std::string described;  // the case at hand

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "%s: %s\n", described.c_str(), what.c_str());
    std::exit(1);
}

// 2-byte elements, 16-byte aligned, not one byte more.
using Elements = std::vector<Vector>;

uint16_t* elements(Elements& x) { return reinterpret_cast<uint16_t*>(x.data()); }

struct Pack {
    int heads = 0, size = 0;
    std::vector<int32_t> cu_q, cu_k;
    Elements q, k, v;  // q [Tq, H, D]; k and v apart, or both within kv [Tk, 2, H, D]
    bool fused = false;
    int window = kWidest;
    bool one_query = false;

    int64_t token_stride() const { return heads * size; }
    const uint16_t* row(const Elements& x, bool is_value, int64_t token, int head) const {
        const int64_t stride = fused ? 2 * token_stride() : token_stride();
        return reinterpret_cast<const uint16_t*>(x.data()) + token * stride +
               (fused && is_value ? token_stride() : 0) + head * size;
    }
    const uint16_t* key(int64_t token, int head) const { return row(k, false, token, head); }
    const uint16_t* value(int64_t token, int head) const {
        return row(fused ? k : v, true, token, head);
    }
};

template <class T>
Elements random_elements(int64_t count) {
    std::normal_distribution<float> normal;
    Elements x(count / 8);
    for (int64_t i = 0; i < count; ++i) elements(x)[i] = emulate::to_bits(T(), normal(random_bits));
    return x;
}

std::vector<int32_t> offsets(const std::vector<int>& lengths, int spare) {
    std::vector<int32_t> cu = {0};
    for (int length : lengths) cu.push_back(cu.back() + length);
    cu.insert(cu.end(), spare, cu.back());
    return cu;
}

template <class T>
Pack make(const std::vector<int>& lengths_q, const std::vector<int>& lengths_k, int heads, int size,
          int window, bool fused, int spare = 0) {
    Pack pack;
    pack.heads = heads;
    pack.size = size;
    pack.window = window;
    pack.fused = fused;
    pack.cu_q = offsets(lengths_q, spare);
    pack.cu_k = offsets(lengths_k, spare);
    const int64_t row = heads * size;
    pack.q = random_elements<T>(pack.cu_q.back() * row);
    pack.k = random_elements<T>(pack.cu_k.back() * row * (fused ? 2 : 1));
    if (!fused) pack.v = random_elements<T>(pack.cu_k.back() * row);
    return pack;
}

int longest(const std::vector<int32_t>& cu) {
    int most = 0;
    for (size_t n = 1; n < cu.size(); ++n) most = std::max(most, cu[n] - cu[n - 1]);
    return most;
}

template <class T, int D>
Elements run(const Pack& pack, int blocks, int log_unit_rows, int max_keys) {
    Elements out(pack.q.size());
    std::memset(static_cast<void*>(out.data()), 0xff, out.size() * sizeof(Vector));
    const int64_t stride = pack.token_stride(), fused = pack.fused ? 2 * stride : stride;
    const Strided q = {pack.q.data(), stride, D}, k = {pack.key(0, 0), fused, D},
                  v = {pack.value(0, 0), fused, D};
    const AttentionArgs args = {q,
                                k,
                                v,
                                out.data(),
                                pack.cu_q.data(),
                                pack.cu_k.data(),
                                static_cast<int>(pack.cu_q.size()) - 1,
                                pack.heads,
                                1.44269504f / std::sqrt(static_cast<float>(D)),
                                pack.window,
                                capacity_for(max_keys),
                                log_unit_rows};
    if (pack.one_query)
        emulate::launch(blocks, kThreads, 0, random_bits(), [&] { RowWarp<T, D>(args).run(); });
    else
        emulate::launch(blocks, kThreads, shared_bytes(args.capacity, D), random_bits(),
                        [&] { TileBlock<T, D>(args).run(); });
    return out;
}

// Every row within what rounding weights and results to T allows, with 2^-16 for float32.
template <class T>
void check(const Pack& pack, Elements out) {
    const double unit = std::is_same<T, Half>::value ? 0x1p-11 : 0x1p-8;
    const int size = pack.size;
    std::vector<double> weights, expected(size), weighed(size);
    for (size_t n = 1; n < pack.cu_q.size(); ++n)
        for (int row = pack.cu_q[n - 1]; row < pack.cu_q[n]; ++row)
            for (int head = 0; head < pack.heads; ++head) {
                const int position = row - pack.cu_q[n - 1], start = pack.cu_k[n - 1];
                const int begin = std::max(0, position - pack.window);
                const int end = std::min(pack.cu_k[n] - start, position + pack.window + 1);
                const uint16_t* q = reinterpret_cast<const uint16_t*>(pack.q.data()) +
                                    (row * static_cast<int64_t>(pack.heads) + head) * size;
                weights.clear();
                double top = -1e300, sum = 0;
                for (int key = begin; key < end; ++key) {
                    double score = 0;
                    for (int i = 0; i < size; ++i)
                        score += static_cast<double>(emulate::to_float(T(), q[i])) *
                                 emulate::to_float(T(), pack.key(start + key, head)[i]);
                    weights.push_back(score / std::sqrt(size));
                    top = std::max(top, weights.back());
                }
                std::fill(expected.begin(), expected.end(), 0.0);
                std::fill(weighed.begin(), weighed.end(), 0.0);
                for (double& weight : weights) sum += weight = std::exp(weight - top);
                for (size_t j = 0; j < weights.size(); ++j)
                    for (int i = 0; i < size; ++i) {
                        const double y =
                            weights[j] / sum *
                            emulate::to_float(T(), pack.value(start + begin + j, head)[i]);
                        expected[i] += y;
                        weighed[i] += std::fabs(y);
                    }
                for (int i = 0; i < size; ++i) {
                    const double actual = emulate::to_float(
                        T(),
                        elements(out)[(row * static_cast<int64_t>(pack.heads) + head) * size + i]);
                    const double bound = unit * (weighed[i] + std::fabs(expected[i])) +
                                         0x1p-16 * weighed[i] + (weights.empty() ? 0 : 0x1p-22);
                    if (!(std::fabs(actual - expected[i]) <= bound))
                        fail("sequence " + std::to_string(n - 1) + " query " +
                             std::to_string(position) + " head " + std::to_string(head) +
                             " element " + std::to_string(i) + " is " + std::to_string(actual) +
                             ", expected " + std::to_string(expected[i]));
                }
            }
}

bool same(const Vector* a, const Vector* b, size_t count) {
    return std::memcmp(a, b, count * sizeof(Vector)) == 0;
}

// Sequence n of the pack as a pack of its own.
Pack alone(const Pack& pack, size_t n) {
    Pack one = pack;
    const int64_t row = pack.token_stride() / 8, wide = pack.fused ? 2 * row : row;
    one.cu_q = {0, pack.cu_q[n + 1] - pack.cu_q[n]};
    one.cu_k = {0, pack.cu_k[n + 1] - pack.cu_k[n]};
    const auto cut = [](const Elements& x, int64_t from, int64_t to) {
        return Elements(x.begin() + from, x.begin() + to);
    };
    one.q = cut(pack.q, pack.cu_q[n] * row, pack.cu_q[n + 1] * row);
    one.k = cut(pack.k, pack.cu_k[n] * wide, pack.cu_k[n + 1] * wide);
    if (!pack.fused) one.v = cut(pack.v, pack.cu_k[n] * row, pack.cu_k[n + 1] * row);
    return one;
}

// A pack against the definition, against itself on other grids, and against its sequences alone.
template <class T, int D>
void judge(const Pack& pack, const std::vector<int>& grids) {
    const int max_keys = longest(pack.cu_k);
    const Elements out = run<T, D>(pack, grids[0], kLeastLogUnitRows, max_keys);
    check<T>(pack, out);
    for (size_t i = 1; i < grids.size(); ++i) {
        const int log_unit_rows = i % 2 ? kMostLogUnitRows : kLeastLogUnitRows + 1;
        if (!same(run<T, D>(pack, grids[i], log_unit_rows, i % 2 ? kMostKeys : max_keys).data(),
                  out.data(), out.size()))
            fail("bits depend on the grid, on log_unit_rows or on capacity");
    }
    if (grids.size() == 1) return;
    const size_t row = pack.token_stride() / 8;
    for (size_t n = 0; n + 1 < pack.cu_q.size(); n += 3) {
        const Pack one = alone(pack, n);
        if (one.q.empty()) continue;
        const Elements own = run<T, D>(one, 1, kLeastLogUnitRows, longest(one.cu_k));
        if (!same(own.data(), out.data() + pack.cu_q[n] * row, own.size()))
            fail("bits of sequence " + std::to_string(n) + " depend on its company");
    }
}

std::vector<int> random_lengths(int count, int most) {
    std::vector<int> lengths;
    for (int i = 0; i < count; ++i) lengths.push_back(random_bits() % (most + 1));
    return lengths;
}

// NaN in a key reaches the whole of its sequence and head, NaN in a value its column of them: here
// in the pack's first token, which is what a copy that is not made points at.
template <class T, int D>
void judge_nan(bool one_query) {
    const std::vector<int> keys = {12, 5, 70};
    Pack pack = make<T>(one_query ? std::vector<int>{1, 1, 1} : keys, keys, 5, D, kWidest, false);
    pack.one_query = one_query;
    elements(pack.k)[(13 * 5 + 2) * D + 3] = 0x7fff;  // sequence 1, head 2
    elements(pack.v)[3] = 0x7fff;                     // sequence 0, head 0
    Elements out = run<T, D>(pack, 3, kLeastLogUnitRows, 70);
    for (size_t n = 0; n < 3; ++n)
        for (int row = pack.cu_q[n]; row < pack.cu_q[n + 1]; ++row)
            for (int head = 0; head < 5; ++head)
                for (int i = 0; i < D; ++i) {
                    const bool reached = (n == 1 && head == 2) || (n == 0 && head == 0 && i == 3);
                    const uint16_t actual = elements(out)[(row * 5 + head) * D + i];
                    if (std::isnan(emulate::to_float(T(), actual)) != reached)
                        fail("NaN is where it should not be, or is not where it should be");
                }
}

template <class T, int D>
void judge_all(const std::string& name) {
    const std::vector<int> edges = {0,  1,  15, 16,  17,  0,   31,  32,  33,
                                    63, 64, 65, 127, 128, 129, 255, 256, 2};
    described = name + " edges";
    judge<T, D>(make<T>(edges, edges, 1, D, kWidest, true, 2), {7});
    described = name + " heads and grids";
    const std::vector<int> few = {33, 16, 0, 100, 3, 140, 20, 31, 9, 64};
    judge<T, D>(make<T>(few, few, 3, D, kWidest, true), {1, 2, 200});
    described = name + " more short sequences than a warp looks at";
    judge<T, D>(make<T>(random_lengths(150, 3), random_lengths(150, 3), 6, D, kWidest, false, 200),
                {5});
    for (int window : {0, 5, 16, 60}) {
        described = name + " window " + std::to_string(window);
        const std::vector<int> lengths_q = {40, 1, 150, 17}, lengths_k = {7, 30, 150, 130};
        judge<T, D>(make<T>(lengths_q, lengths_k, 1, D, window, window == 5), {3});
    }
    described = name + " unequal lengths";
    judge<T, D>(
        make<T>({1, 40, 5, 0, 16, 9, 64, 3}, {200, 3, 0, 7, 17, 256, 20, 33}, 2, D, kWidest, false),
        {4, 9});
    for (int window : {kWidest, 0, 30}) {
        described = name + " one query, window " + std::to_string(window);
        std::vector<int> lengths_q(edges.size(), 1), lengths_k = edges;
        lengths_k.back() = 700;  // this form takes any number of keys
        lengths_q[2] = lengths_q[8] = 0;
        lengths_q[10] = window == 30 ? 41 : 1;  // allowed, if slow
        Pack pack = make<T>(lengths_q, lengths_k, 3, D, window, true, 6);
        pack.one_query = true;
        judge<T, D>(pack, {1, 6, 50});
    }
    described = name + " NaN";
    judge_nan<T, D>(false);
    judge_nan<T, D>(true);
    described = name + " a longer sequence than was promised";
    Pack pack = make<T>({70, 20}, {70, 20}, 1, D, kWidest, false);
    Elements out = run<T, D>(pack, 2, kLeastLogUnitRows, 64);
    for (int i = 0; i < 90 * D; ++i)
        if (std::isnan(emulate::to_float(T(), elements(out)[i])) != (i < 70 * D))
            fail("its rows, and only they, must be NaN");
}

}  // namespace

int main(int argc, char** argv) {
    random_bits.seed(argc > 1 ? std::atoi(argv[1]) : 0);
    judge_all<Half, 32>("float16, head size 32");
#ifndef SAMPLE
    judge_all<Half, 64>("float16, head size 64");
    judge_all<BFloat16, 32>("bfloat16, head size 32");
#endif
    judge_all<BFloat16, 64>("bfloat16, head size 64");
    std::puts("right");
}
