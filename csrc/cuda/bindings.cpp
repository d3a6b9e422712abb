// packrank_kernels._cuda: the CUDA kernels, on addresses. No computation here. Arguments are
// checked by packrank_kernels; a failure of CUDA's raises RuntimeError with its words.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "attention.h"
#include "maxsim.h"

namespace py = pybind11;
using namespace packrank::cuda;

namespace {

using Tensor3 = std::tuple<uintptr_t, int64_t, int64_t>;

Strided strided(const Tensor3& x) {
    return {reinterpret_cast<const void*>(std::get<0>(x)), std::get<1>(x), std::get<2>(x)};
}

void attention_at(int device, uintptr_t stream, int dtype, const Tensor3& q, const Tensor3& k,
                  const Tensor3& v, uintptr_t out, uintptr_t cu_seqlens_q, uintptr_t cu_seqlens_k,
                  int64_t num_queries, int num_sequences, int num_heads, int head_size, float scale,
                  int64_t window, int max_keys, bool one_query) {
    constexpr float kLog2E = 1.44269504f;
    Call call = {};
    call.dtype = static_cast<Dtype>(dtype);
    call.head_size = head_size;
    call.num_queries = num_queries;
    call.max_keys = max_keys;
    call.one_query = one_query;
    call.device = device;
    call.stream = reinterpret_cast<void*>(stream);
    call.args.q = strided(q);
    call.args.k = strided(k);
    call.args.v = strided(v);
    call.args.out = reinterpret_cast<void*>(out);
    call.args.cu_seqlens_q = reinterpret_cast<const int32_t*>(cu_seqlens_q);
    call.args.cu_seqlens_k = reinterpret_cast<const int32_t*>(cu_seqlens_k);
    call.args.num_sequences = num_sequences;
    call.args.num_heads = num_heads;
    call.args.scale = scale * kLog2E;
    call.args.window = window < 0 ? kWidest : static_cast<int>(std::min<int64_t>(window, kWidest));
    attention(call);
}

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

using Addresses = std::tuple<uintptr_t, uintptr_t, uintptr_t>;

// Columns of the maxima, and ranges.
std::tuple<int, int> maxsim_plan_of(int device, int format, int size, int columns, bool owners) {
    const MaxSimPlan plan =
        maxsim_plan(device, static_cast<MaxSimFormat>(format), size, columns, owners);
    return {plan.columns, plan.ranges()};
}

void maxsim_at(int device, uintptr_t stream, int format, int size, const Addresses& queries,
               const std::vector<int32_t>& starts, const Addresses& values,
               const std::tuple<uintptr_t, uintptr_t, int>& codec,
               const std::tuple<uintptr_t, int64_t>& documents, const Addresses& candidates,
               int64_t num_candidates, const Addresses& out, int64_t scores_stride,
               bool evicts_first) {
    if (starts.empty()) throw std::invalid_argument("starts of queries are M + 1 numbers");
    MaxSimArgs args = {};
    args.size = size;
    args.num_queries = static_cast<int>(starts.size()) - 1;
    args.num_columns = starts.back();
    args.queries = at<void>(std::get<0>(queries));
    args.weights = at<float>(std::get<1>(queries));
    if (args.num_queries > 1) args.query_starts = at<int32_t>(std::get<2>(queries));
    args.values = at<uint8_t>(std::get<0>(values));
    args.scales = at<float>(std::get<1>(values));
    args.codes = at<int32_t>(std::get<2>(values));
    args.centroids = at<uint8_t>(std::get<0>(codec));
    args.table = at<uint8_t>(std::get<1>(codec));
    args.num_centroids = std::get<2>(codec);
    args.cu_seqlens = at<int64_t>(std::get<0>(documents));
    args.num_documents = std::get<1>(documents);
    args.candidates = at<int64_t>(std::get<0>(candidates));
    args.owners = at<int32_t>(std::get<1>(candidates));
    args.starts =
        args.candidates == nullptr ? args.cu_seqlens : at<int64_t>(std::get<2>(candidates));
    args.num_candidates = num_candidates;
    args.maxima = at<float>(std::get<0>(out));
    args.partial = at<float>(std::get<1>(out));
    args.scores = at<float>(std::get<2>(out));
    args.scores_stride = scores_stride;
    args.evicts_first = evicts_first;
    int columns = args.num_columns;
    if (args.owners != nullptr) {
        columns = 0;
        for (size_t m = 1; m < starts.size(); ++m)
            columns = std::max(columns, starts[m] - starts[m - 1]);
    }
    const auto kind = static_cast<MaxSimFormat>(format);
    args.plan = maxsim_plan(device, kind, size, columns, args.owners != nullptr);
    maxsim(device, at<void>(stream), kind, args, starts.data());
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.attr("MOST_KEYS") = kMostKeys;
    m.attr("MAXSIM_MOST_ROW_BYTES") = kMostRowBytes;
    m.def("device_count", &device_count);
    m.def("attention", &attention_at, py::call_guard<py::gil_scoped_release>());
    m.def("maxsim_plan", &maxsim_plan_of);
    m.def("maxsim", &maxsim_at, py::call_guard<py::gil_scoped_release>());
}
