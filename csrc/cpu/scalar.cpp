// Every op in portable C++.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../common/halves.h"
#include "../common/thread_pool.h"
#include "kernels.h"

namespace packrank::scalar {
namespace {

#include "simd_scalar.h"
// after the vector type
#include "ops.inc"

bool supported() { return true; }

}  // namespace

const Kernels kernels = {"scalar",  supported,      packed_size,    pack_linear,      linear,
                         attention, add_layer_norm, add_rms_norm,   embed_layer_norm, maxsim,
                         matches,   stream,         paged_attention};

}  // namespace packrank::scalar
