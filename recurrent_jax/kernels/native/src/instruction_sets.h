// What recurrence.cc was compiled for, and the choice from it.
#pragma once
#include "problem.h"

namespace recurrent_jax {

// The best that this processor has, or the one that RECURRENT_JAX_INSTRUCTION_SET names, for tests.
const InstructionSet& best_instruction_set();

}  // namespace recurrent_jax
