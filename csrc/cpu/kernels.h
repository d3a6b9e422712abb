// What every instruction set offers: one table of functions on raw pointers.
//
// Sizes and strides are in elements. Arguments are checked by the caller (packrank_kernels/*.py),
// offsets included. Every result depends on its own inputs alone: not on the other rows or
// sequences of the call, nor on the number of threads.
#pragma once

#include <cstdint>

namespace packrank {

enum class Dtype : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kInt8 = 3 };

enum class Activation : int {
    kNone = 0,
    kGelu = 1,
    kGeluTanh = 2,
    kRelu = 3,
    kSilu = 4,
    kTanh = 5
};

// A packed tensor [tokens, heads, size] whose last dimension is contiguous.
struct Strided {
    const void* data;
    int64_t token_stride;
    int64_t head_stride;
    int64_t page_stride;  // of what lies in pages: the others are then within one
};

// Where keys and values lie that are spread over pages of so many tokens: token t of sequence n in
// row t % size of page table[n * most + t / size].
struct Pages {
    const int32_t* table;    // [num_sequences, most], or null: they lie end to end
    const int32_t* lengths;  // [num_sequences], keys of each
    int64_t most, size;
};

struct AttentionArgs {
    Dtype dtype;
    Strided q, k, v;
    void* out;  // [Tq, H, D] contiguous
    const int32_t* cu_seqlens_q;
    const int32_t* cu_seqlens_k;
    const int32_t* prefix_of;  // [num_sequences], negative: none; or null
    int64_t num_sequences, num_heads, num_key_heads, head_size;
    float scale;
    float softcap;     // 0: products are not capped
    bool causal;       // with the ends of queries and keys aligned
    int64_t window;    // negative: every key is visible
    const float* cos;  // [P, D / 2], or null
    const float* sin;
    // What a query says of a distance to a key, and a key of one to a query; or null.
    const void* position_keys;     // [R, H, D] contiguous
    const void* position_queries;  // [R, H, D] contiguous
    const int32_t* position_rows;  // [2 P - 1], the row for distance d at P - 1 + d
    const float* position_bias;    // [R, H], added to scaled products; or null
    int64_t num_positions;         // P
    Pages pages = {};              // of k and v
};

struct PagedAttentionArgs {
    AttentionArgs attention;
    Strided new_k, new_v;  // of cu_seqlens_k, to be written at the ends of the sequences
};

struct NormArgs {
    Dtype dtype;
    const void* x;
    const void* residual;  // or null
    const float* weight;
    const float* bias;  // or null
    void* normed;
    void* total;  // or null: the sum is not wanted
    int64_t rows, size;
    float eps;
};

struct RmsNormArgs {
    Dtype dtype;
    const void* x;
    const void* residual;  // or null
    const float* weight;
    void* normed;
    void* total;  // or null: the sum is not wanted
    int64_t rows, size;
    float eps;
    float scale;  // on x
};

struct EmbedArgs {
    Dtype dtype;
    const int32_t* token_ids;
    const int32_t* positions;    // null with position_table
    const int32_t* token_types;  // null: type 0
    const void* token_table;
    const void* position_table;  // or null
    const void* type_table;      // or null
    const float* weight;
    const float* bias;  // or null
    void* out;
    int64_t rows, size;
    float eps;
};

struct LinearArgs {
    Dtype dtype;
    const void* x;
    int64_t x_stride;
    const void* packed;  // from pack_linear, same instruction set
    const float* bias;   // [N], or [2N] if gated
    void* out;           // [M, N] contiguous
    int64_t rows, in_features, out_features;
    Activation activation;
    bool gated;
    bool wide;  // out is float32, whatever the dtype
};

// Documents in any format of packrank_kernels/token_embeddings.py, queries as maxsim.py hands them.
struct MaxSimArgs {
    Dtype dtype;                     // of values; kInt8 also of residual codes
    int bits;                        // of a residual: 1, 2, 4 or 8; else 0
    const void* values;              // [T, D], or [T, D * bits / 8]
    const float* scales;             // [T], integers only
    const int32_t* codes;            // [T], residuals only
    const uint8_t* centroids;        // [C, D] integers, residuals only
    const uint8_t* bucket_weights;   // [2^bits] integers, residuals only
    int64_t num_centroids;           // C
    int64_t num_outliers;            // E, dimensions whose products are float32's; 0 without codes
    const int32_t* outlier_columns;  // [E], of centroids
    const float* outlier_rows;       // [C, E]
    const float* outlier_weights;    // [2^bits]
    const int64_t* cu_seqlens;       // rows of values: need not start at 0
    int64_t size;                    // D
    const void* queries;             // [R, D]: float32 for float16 documents, else dtype
    const float* query_weights;      // [R], integers only
    const float* query_outliers;     // [R, E]
    const int64_t* query_starts;     // [M + 1]
    int64_t num_queries;
    const int64_t* candidates;  // [K], or null: all documents
    const int32_t* owners;      // [K], the query of each candidate, or null: every query
    int64_t num_candidates;     // K
    float* scores;              // [M, K], or [K] with owners; [K, R] of matches
    int32_t* tokens;            // [K, R] of matches
};

// Every value read, or copied, `repeats` times.
struct StreamArgs {
    const float* x;
    float* out;      // or null: what is read goes nowhere
    float* largest;  // [num_shares] of each share, where out is null
    int64_t size, num_shares, repeats;
};

struct Kernels {
    const char* name;
    bool (*supported)();
    // Elements of the packed form of a [out_features, in_features] weight.
    int64_t (*packed_size)(Dtype, int64_t out_features, int64_t in_features);
    void (*pack_linear)(Dtype, const void* weight, void* packed, int64_t out_features,
                        int64_t in_features);
    void (*linear)(const LinearArgs&);
    void (*attention)(const AttentionArgs&);
    void (*add_layer_norm)(const NormArgs&);
    void (*add_rms_norm)(const RmsNormArgs&);
    void (*embed_layer_norm)(const EmbedArgs&);
    void (*maxsim)(const MaxSimArgs&);
    // Of one query: where each of its tokens has its maximum, and what that adds to the score.
    void (*matches)(const MaxSimArgs&);
    void (*stream)(const StreamArgs&);
    // Keys in pages are rotated already; those that are written are so first.
    void (*paged_attention)(const PagedAttentionArgs&);
};

namespace scalar {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace amx {
extern const Kernels kernels;  // of linear layers alone, in bfloat16
}

}  // namespace packrank
