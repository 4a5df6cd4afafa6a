// The upper half of a float: eight bits of exponent, seven of mantissa.
#pragma once
#include <cstdint>

namespace recurrent_jax {

struct Bfloat16 {
  uint16_t bits;
};

}  // namespace recurrent_jax
