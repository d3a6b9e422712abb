// The MaxSim kernels of csrc/cuda, run by emulate.h on cases that
// tests/kernels/backend/test_cuda_maxsim.py writes: maxsim_driver SEED TOWARD_ZERO < case > scores.
// Every array has its exact size, so that the address sanitizer ends the program where a kernel
// reads outside one; what kernels write holds NaN before.
#include <cstdio>
#include <cstring>
#include <string>

#include "maxsim_sums.h"

using namespace packrank::cuda;

namespace {

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "maxsim_driver: %s\n", what);
    std::exit(1);
}

int64_t number() {
    int64_t x;
    if (std::fread(&x, sizeof(x), 1, stdin) != 1) fail("the case ends early");
    return x;
}

// A number of bytes, and as many bytes; null if that is negative.
class Array {
  public:
    Array() : size_(number()) {
        if (size_ < 0) return;
        // At an address that is a multiple of 16 and of nothing more.
        memory_.reset(static_cast<char*>(std::aligned_alloc(16, 16 + (size_ + 15) / 16 * 16)));
        const size_t bytes = size_;
        if (bytes && std::fread(data(), 1, bytes, stdin) != bytes) fail("an array ends early");
        ASAN_POISON_MEMORY_REGION(data() + size_, (size_ + 15) / 16 * 16 - size_);
    }
    template <class T>
    const T* as() const {
        return size_ < 0 ? nullptr : reinterpret_cast<const T*>(data());
    }
    int64_t size() const { return size_; }

  private:
    struct Free {
        void operator()(char* p) const { std::free(p); }
    };
    char* data() const { return memory_.get() + 16; }
    int64_t size_;
    std::unique_ptr<char, Free> memory_;
};

// Where the plan is for this kernel.
template <class Documents, int N>
bool run(MaxSimFormat format, const MaxSimArgs& args, uint32_t seed) {
    const MaxSimPlan& plan = args.plan;
    const bool is_whole = plan.slabs == plan.slab_group;
    if (format != Documents::kFormat || plan.panel != N || plan.slab_group != Documents::kSlabs ||
        is_whole != Documents::kIsWhole || (Documents::kSize && Documents::kSize != args.size))
        return false;
    emulate::launch(plan.blocks, plan.warpgroups * kGroupThreads, shared_bytes(format, plan), seed,
                    [&] { MaximaBlock<Documents, N>(args).run(); });
    return true;
}

template <int SLABS, bool WHOLE>
using Float16 = PlainDocuments<Half, float, MaxSimFormat::kFloat16, SLABS, WHOLE>;
template <int SLABS, bool WHOLE>
using Bytes = PlainDocuments<Int8, int32_t, MaxSimFormat::kInt8, SLABS, WHOLE>;

// Every format, and every width of a panel with every number of slabs: the others are made of the
// same pieces.
bool run(MaxSimFormat format, const MaxSimArgs& args, uint32_t seed) {
    return run<Float16<2, true>, 32>(format, args, seed) ||
           run<Float16<4, true>, 128>(format, args, seed) ||
           run<Float16<4, false>, 64>(format, args, seed) ||
           run<PlainDocuments<BFloat16, float, MaxSimFormat::kBFloat16, 4, true, 128>, 32>(
               format, args, seed) ||
           run<Bytes<2, true>, 128>(format, args, seed) ||
           run<Bytes<2, false>, 64>(format, args, seed) ||
           run<Bytes<2, false>, 32>(format, args, seed) ||
           run<ResidualDocuments<4, 2, true, 128>, 32>(format, args, seed) ||
           run<ResidualDocuments<4, 2, false>, 128>(format, args, seed) ||
           run<ResidualDocuments<2, 2, true, 128>, 32>(format, args, seed) ||
           run<ResidualDocuments<2, 2, true>, 64>(format, args, seed) ||
           run<ResidualDocuments<2, 2, false>, 32>(format, args, seed);
}

}  // namespace

int main(int argc, char** argv) {
    const uint32_t seed = argc > 1 ? std::atoi(argv[1]) : 0;
    emulate::machine.toward_zero = argc > 2 && std::atoi(argv[2]) != 0;
    const auto format = static_cast<MaxSimFormat>(number());
    MaxSimArgs args = {};
    args.size = static_cast<int>(number());
    args.num_queries = static_cast<int>(number());
    args.num_columns = static_cast<int>(number());
    const int columns = std::max(static_cast<int>(number()), 1);
    const bool owners = number() != 0;
    args.plan = plan_maxsim(format, args.size, columns, owners, static_cast<int>(number()));
    // What the plan would be elsewhere; 0 leaves it.
    const int panel = static_cast<int>(number()), group = static_cast<int>(number());
    const int warpgroups = static_cast<int>(number()), stages = static_cast<int>(number());
    if (panel) {
        args.plan.panel = panel;
        args.plan.columns = (columns + panel - 1) / panel * panel;
        args.plan.group_columns = std::min(group, args.plan.columns);
    }
    if (warpgroups) args.plan.warpgroups = warpgroups;
    if (stages) args.plan.stages = stages;
    if (shared_bytes(format, args.plan) > kMostShared) fail("the plan does not fit");
    args.num_candidates = number();
    args.num_documents = number();
    args.num_centroids = static_cast<int>(number());
    const Array queries, weights, starts, values, scales, codes, centroids, table, candidates,
        owner, cu_seqlens, rows;
    args.queries = queries.as<void>();
    args.weights = weights.as<float>();
    args.query_starts = starts.as<int32_t>();
    args.values = values.as<uint8_t>();
    args.scales = scales.as<float>();
    args.codes = codes.as<int32_t>();
    args.centroids = centroids.as<uint8_t>();
    args.table = table.as<uint8_t>();
    args.candidates = candidates.as<int64_t>();
    args.owners = owner.as<int32_t>();
    args.cu_seqlens = cu_seqlens.as<int64_t>();
    args.starts = args.candidates == nullptr ? args.cu_seqlens : rows.as<int64_t>();
    const float nan = __builtin_nanf("");
    std::vector<float> maxima(args.num_candidates * args.plan.columns, nan);
    std::vector<float> partial(args.plan.ranges() * 2 * args.plan.columns, nan);
    std::vector<float> scores((owners ? 1 : args.num_queries) * args.num_candidates, nan);
    args.maxima = maxima.data();
    args.partial = partial.data();
    args.scores = scores.data();
    args.scores_stride = args.num_candidates;
    if (args.num_columns > 0 && !run(format, args, seed)) fail("no kernel here for this plan");
    emulate::launch(3, kSumWarps * 32, 16, seed, [&] { ScoreWarp(args).run(); });
    if (std::fwrite(scores.data(), 4, scores.size(), stdout) != scores.size())
        fail("scores cannot be written");
}
