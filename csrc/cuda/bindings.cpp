// packrank_kernels._cuda: the CUDA kernels, on addresses. No computation here. Arguments are
// checked by packrank_kernels; a failure of CUDA's raises RuntimeError with its words.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <tuple>

#include "attention.h"

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

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.attr("MOST_KEYS") = kMostKeys;
    m.def("device_count", &device_count);
    m.def("attention", &attention_at, py::call_guard<py::gil_scoped_release>());
}
