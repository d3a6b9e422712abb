#pragma once

#include <cstdint>

namespace packrank {

// The upper half of a float.
struct BFloat16 {
    uint16_t bits;
};

// IEEE 754 binary16.
struct Float16 {
    uint16_t bits;
};

}  // namespace packrank
