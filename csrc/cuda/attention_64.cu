// The tiles of head size 64, by themselves for a flag of their own (setup.py): what ptxas does for
// speed beyond its first level (CUDA 13.0) takes more registers than four blocks leave, and keeps
// some of every thread in local memory, on sm_80 and on sm_90a.
#include "attention.h"
#include "attention_tiles.h"

namespace packrank {
namespace cuda {

AttentionKernel attention_tiles_64(Dtype dtype) {
    return dtype == Dtype::kFloat16 ? attention_tiles<Half, 64> : attention_tiles<BFloat16, 64>;
}

}  // namespace cuda
}  // namespace packrank
