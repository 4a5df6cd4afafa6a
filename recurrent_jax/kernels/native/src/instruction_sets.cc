#include "instruction_sets.h"

#include <cstdlib>
#include <cstring>

namespace recurrent_jax {

#define RJ_DECLARE(set)                       \
  namespace set {                             \
  extern const InstructionSet instruction_set; \
  }
RJ_DECLARE(baseline)
#if defined(__x86_64__)
RJ_DECLARE(avx2)
RJ_DECLARE(avx512)
RJ_DECLARE(avx512_bf16)
#endif

namespace {

const InstructionSet& choose() {
  const char* asked = std::getenv("RECURRENT_JAX_INSTRUCTION_SET");
  const auto allowed = [&](const InstructionSet& set) { return !asked || !*asked || !std::strcmp(asked, set.name); };
#if defined(__x86_64__)
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_bf16 = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl");
  if (has_avx512 && has_bf16 && allowed(avx512_bf16::instruction_set)) return avx512_bf16::instruction_set;
  if (has_avx512 && allowed(avx512::instruction_set)) return avx512::instruction_set;
  if (has_avx2 && allowed(avx2::instruction_set)) return avx2::instruction_set;
#endif
  (void)allowed;
  return baseline::instruction_set;
}

}  // namespace

const InstructionSet& best_instruction_set() {
  static const InstructionSet& set = choose();
  return set;
}

}  // namespace recurrent_jax
