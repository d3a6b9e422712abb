// What memory can deliver: every thread goes over a share of its own, again and again. Included
// once per instruction set, inside its namespace.

constexpr int kStreams = 8;  // loads whose results wait for nothing

inline float largest_of(const float* x, int64_t size, int64_t repeats) {
    V best[kStreams];
    for (V& each : best) each = set1(-INFINITY);
    constexpr int64_t kStep = kStreams * kWidth;
    const int64_t whole = size / kStep * kStep;
    for (int64_t repeat = 0; repeat < repeats; ++repeat) {
        for (int64_t i = 0; i < whole; i += kStep)
            for (int s = 0; s < kStreams; ++s) best[s] = max(load(x + i + s * kWidth), best[s]);
        asm volatile("" ::: "memory");  // or all passes but one would be left out
    }
    float result = -INFINITY;
    for (const V& each : best) {
        const float found = largest(each);
        result = found > result ? found : result;
    }
    for (int64_t i = whole; i < size; ++i) result = x[i] > result ? x[i] : result;
    return result;
}

inline void stream(const StreamArgs& args) {
    parallel(args.num_shares, [&](int64_t share) {
        const int64_t start = args.size * share / args.num_shares;
        const int64_t size = args.size * (share + 1) / args.num_shares - start;
        const float* x = args.x + start;
        if (args.out == nullptr) {
            args.largest[share] = largest_of(x, size, args.repeats);
            return;
        }
        for (int64_t repeat = 0; repeat < args.repeats; ++repeat) {
            memcpy(args.out + start, x, static_cast<size_t>(size) * sizeof(float));
            asm volatile("" ::: "memory");
        }
    });
}
