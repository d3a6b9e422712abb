// packrank_kernels._cpu: the tables of functions, on addresses. No computation here.
// Arguments are checked by packrank_kernels; the interpreter's lock is released while a kernel
// runs.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "common/at_exit.h"
#include "common/thread_pool.h"
#include "cpu/kernels.h"

namespace py = pybind11;
using namespace packrank;

namespace {

const Kernels* const kAll[] = {&amx::kernels, &avx512::kernels, &avx2::kernels, &scalar::kernels};

const Kernels& find(const std::string& isa) {
    for (const Kernels* kernels : kAll)
        if (isa == kernels->name) {
            if (!kernels->supported()) throw std::runtime_error("this processor has no " + isa);
            return *kernels;
        }
    throw std::invalid_argument("no instruction set named " + isa);
}

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

Strided strided(const std::tuple<uintptr_t, int64_t, int64_t>& x) {
    return {at<void>(std::get<0>(x)), std::get<1>(x), std::get<2>(x)};
}

using Tensor3 = std::tuple<uintptr_t, int64_t, int64_t>;

void attention(const std::string& isa, int dtype, const Tensor3& q, const Tensor3& k,
               const Tensor3& v, uintptr_t out, uintptr_t cu_seqlens_q, uintptr_t cu_seqlens_k,
               uintptr_t prefix_of, int64_t num_sequences, int64_t num_heads, int64_t num_key_heads,
               int64_t head_size, float scale, float softcap, bool causal, int64_t window,
               uintptr_t cos, uintptr_t sin, uintptr_t position_keys, uintptr_t position_queries,
               uintptr_t position_rows, uintptr_t position_bias, int64_t num_positions) {
    const AttentionArgs args = {static_cast<Dtype>(dtype),
                                strided(q),
                                strided(k),
                                strided(v),
                                at<void>(out),
                                at<int32_t>(cu_seqlens_q),
                                at<int32_t>(cu_seqlens_k),
                                at<int32_t>(prefix_of),
                                num_sequences,
                                num_heads,
                                num_key_heads,
                                head_size,
                                scale,
                                softcap,
                                causal,
                                window,
                                at<float>(cos),
                                at<float>(sin),
                                at<void>(position_keys),
                                at<void>(position_queries),
                                at<int32_t>(position_rows),
                                at<float>(position_bias),
                                num_positions};
    const Kernels& kernels = find(isa);
    py::gil_scoped_release unlocked;
    kernels.attention(args);
}

// Keys and values in pages (address and strides of a page, a token and a head).
using Tensor4 = std::tuple<uintptr_t, int64_t, int64_t, int64_t>;

Strided in_pages(const Tensor4& x) {
    const auto& [data, page_stride, token_stride, head_stride] = x;
    return {at<void>(data), token_stride, head_stride, page_stride};
}

// Pages (keys, values, table, lengths, most of a sequence, tokens of one).
using PageTuple = std::tuple<Tensor4, Tensor4, uintptr_t, uintptr_t, int64_t, int64_t>;

void paged_attention(const std::string& isa, int dtype, const Tensor3& q, const Tensor3& new_k,
                     const Tensor3& new_v, const PageTuple& pages, uintptr_t out,
                     uintptr_t cu_seqlens_q, uintptr_t cu_seqlens_k, int64_t num_sequences,
                     int64_t num_heads, int64_t num_key_heads, int64_t head_size, float scale,
                     float softcap, int64_t window, uintptr_t cos, uintptr_t sin) {
    const auto& [keys, values, table, lengths, most, size] = pages;
    AttentionArgs args = {};
    args.dtype = static_cast<Dtype>(dtype);
    args.q = strided(q);
    args.k = in_pages(keys);
    args.v = in_pages(values);
    args.out = at<void>(out);
    args.cu_seqlens_q = at<int32_t>(cu_seqlens_q);
    args.cu_seqlens_k = at<int32_t>(cu_seqlens_k);
    args.num_sequences = num_sequences;
    args.num_heads = num_heads;
    args.num_key_heads = num_key_heads;
    args.head_size = head_size;
    args.scale = scale;
    args.softcap = softcap;
    args.causal = true;
    args.window = window;
    args.cos = at<float>(cos);
    args.sin = at<float>(sin);
    args.pages = {at<int32_t>(table), at<int32_t>(lengths), most, size};
    const Kernels& kernels = find(isa);
    py::gil_scoped_release unlocked;
    kernels.paged_attention({args, strided(new_k), strided(new_v)});
}

void add_layer_norm(const std::string& isa, int dtype, uintptr_t x, uintptr_t residual,
                    uintptr_t weight, uintptr_t bias, uintptr_t normed, uintptr_t total,
                    int64_t rows, int64_t size, float eps) {
    const NormArgs args = {static_cast<Dtype>(dtype),
                           at<void>(x),
                           at<void>(residual),
                           at<float>(weight),
                           at<float>(bias),
                           at<void>(normed),
                           at<void>(total),
                           rows,
                           size,
                           eps};
    const Kernels& kernels = find(isa);
    py::gil_scoped_release unlocked;
    kernels.add_layer_norm(args);
}

void add_rms_norm(const std::string& isa, int dtype, uintptr_t x, uintptr_t residual,
                  uintptr_t weight, uintptr_t normed, uintptr_t total, int64_t rows, int64_t size,
                  float eps, float scale) {
    const RmsNormArgs args = {static_cast<Dtype>(dtype),
                              at<void>(x),
                              at<void>(residual),
                              at<float>(weight),
                              at<void>(normed),
                              at<void>(total),
                              rows,
                              size,
                              eps,
                              scale};
    const Kernels& kernels = find(isa);
    py::gil_scoped_release unlocked;
    kernels.add_rms_norm(args);
}

void embed_layer_norm(const std::string& isa, int dtype, uintptr_t token_ids, uintptr_t positions,
                      uintptr_t token_types, uintptr_t token_table, uintptr_t position_table,
                      uintptr_t type_table, uintptr_t weight, uintptr_t bias, uintptr_t out,
                      int64_t rows, int64_t size, float eps) {
    const EmbedArgs args = {static_cast<Dtype>(dtype),
                            at<int32_t>(token_ids),
                            at<int32_t>(positions),
                            at<int32_t>(token_types),
                            at<void>(token_table),
                            at<void>(position_table),
                            at<void>(type_table),
                            at<float>(weight),
                            at<float>(bias),
                            at<void>(out),
                            rows,
                            size,
                            eps};
    const Kernels& kernels = find(isa);
    py::gil_scoped_release unlocked;
    kernels.embed_layer_norm(args);
}

void linear(const std::string& isa, int dtype, uintptr_t x, int64_t x_stride, uintptr_t packed,
            uintptr_t bias, uintptr_t out, int64_t rows, int64_t in_features, int64_t out_features,
            int activation, bool gated, bool wide) {
    const LinearArgs args = {static_cast<Dtype>(dtype),
                             at<void>(x),
                             x_stride,
                             at<void>(packed),
                             at<float>(bias),
                             at<void>(out),
                             rows,
                             in_features,
                             out_features,
                             static_cast<Activation>(activation),
                             gated,
                             wide};
    const Kernels& kernels = find(isa);
    py::gil_scoped_release unlocked;
    kernels.linear(args);
}

// Documents (dtype, bits, values, scales, codes, centroids, bucket weights, number of centroids,
// cu_seqlens, size); outliers (number, columns, rows, weights, of queries);
// queries (values, weights, starts, number); candidates (ids, owners, number).
using Documents = std::tuple<int, int, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t,
                             int64_t, uintptr_t, int64_t>;
using Outliers = std::tuple<int64_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t>;
using Queries = std::tuple<uintptr_t, uintptr_t, uintptr_t, int64_t>;
using Candidates = std::tuple<uintptr_t, uintptr_t, int64_t>;

MaxSimArgs maxsim_args(const Documents& documents, const Outliers& outliers, const Queries& queries,
                       const Candidates& candidates, uintptr_t scores, uintptr_t tokens) {
    const auto& [dtype, bits, values, scales, codes, centroids, bucket_weights, num_centroids,
                 cu_seqlens, size] = documents;
    const auto& [num_outliers, outlier_columns, outlier_rows, outlier_weights, query_outliers] =
        outliers;
    const auto& [query_values, query_weights, query_starts, num_queries] = queries;
    const auto& [ids, owners, num_candidates] = candidates;
    return {static_cast<Dtype>(dtype),
            bits,
            at<void>(values),
            at<float>(scales),
            at<int32_t>(codes),
            at<uint8_t>(centroids),
            at<uint8_t>(bucket_weights),
            num_centroids,
            num_outliers,
            at<int32_t>(outlier_columns),
            at<float>(outlier_rows),
            at<float>(outlier_weights),
            at<int64_t>(cu_seqlens),
            size,
            at<void>(query_values),
            at<float>(query_weights),
            at<float>(query_outliers),
            at<int64_t>(query_starts),
            num_queries,
            at<int64_t>(ids),
            at<int32_t>(owners),
            num_candidates,
            at<float>(scores),
            at<int32_t>(tokens)};
}

void maxsim(const std::string& isa, const Documents& documents, const Outliers& outliers,
            const Queries& queries, const Candidates& candidates, uintptr_t scores) {
    const MaxSimArgs args = maxsim_args(documents, outliers, queries, candidates, scores, 0);
    const Kernels& kernels = find(isa);
    py::gil_scoped_release unlocked;
    kernels.maxsim(args);
}

void matches(const std::string& isa, const Documents& documents, const Outliers& outliers,
             const Queries& queries, const Candidates& candidates, uintptr_t scores,
             uintptr_t tokens) {
    const MaxSimArgs args = maxsim_args(documents, outliers, queries, candidates, scores, tokens);
    const Kernels& kernels = find(isa);
    py::gil_scoped_release unlocked;
    kernels.matches(args);
}

void stream(const std::string& isa, uintptr_t x, uintptr_t out, uintptr_t largest, int64_t size,
            int64_t num_shares, int64_t repeats) {
    const StreamArgs args = {at<float>(x), at<float>(out), at<float>(largest),
                             size,         num_shares,     repeats};
    const Kernels& kernels = find(isa);
    py::gil_scoped_release unlocked;
    kernels.stream(args);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    hold_threads_at_exit();
    m.def("supported", [] {
        py::list names;
        for (const Kernels* kernels : kAll)
            if (kernels->supported()) names.append(kernels->name);
        return names;
    });
    m.def("set_num_threads", &set_num_threads, py::call_guard<py::gil_scoped_release>());
    m.def("packed_size",
          [](const std::string& isa, int dtype, int64_t out_features, int64_t in_features) {
              return find(isa).packed_size(static_cast<Dtype>(dtype), out_features, in_features);
          });
    m.def("pack_linear", [](const std::string& isa, int dtype, uintptr_t weight, uintptr_t packed,
                            int64_t out_features, int64_t in_features) {
        find(isa).pack_linear(static_cast<Dtype>(dtype), at<void>(weight), at<void>(packed),
                              out_features, in_features);
    });
    m.def("attention", &attention);
    m.def("paged_attention", &paged_attention);
    m.def("add_layer_norm", &add_layer_norm);
    m.def("add_rms_norm", &add_rms_norm);
    m.def("embed_layer_norm", &embed_layer_norm);
    m.def("linear", &linear);
    m.def("maxsim", &maxsim);
    m.def("matches", &matches);
    m.def("stream", &stream);
}
