// The loops over time of every cell, compiled once for each instruction set RJ_SET, with vectors of RJ_BYTES and
// RJ_REGISTERS of them.
//
// Weights lie in panels of a few vectors of columns, row after row; a product keeps the sums of some rows and one panel
// in registers. Each sum is taken in the same order whatever the rows and threads beside it: results are the same to the
// last bit however the work is shared.
#include "backward.h"
#include "forward.h"
#include "gradient.h"
#include "single.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

template <class T, class E, class C>
constexpr Functions<T, E> functions() {
  using F = Forward<T, E, C>;
  using B = Backward<T, E, C>;
  using D = Gradient<T, E, C>;
  using O = Single<T, E, C>;
  Functions<T, E> of = {};
  of.panels = [](ptrdiff_t units, bool backward) { return backward ? B::panels(units) : F::panels(units); };
  of.packed_size = [](ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t features, ptrdiff_t units, bool backward) {
    if (backward) return B::packed_size(units);
    return is_single(steps, rows) ? O::sums_size(rows, units) : F::packed_size(features, units);
  };
  of.scratch_size = [](const Problem<T, E>& q, const Share& share, bool backward) {
    Arena arena(nullptr);
    if (backward) typename B::Scratch(q, share, arena);
    else typename F::Scratch(q, share, arena);
    return arena.used();
  };
  of.pack_forward = F::pack;
  of.pack_backward = B::pack;
  of.forward = F::run;
  of.backward = B::run;
  of.single_panels = O::panels;
  of.single_multiply = O::multiply;
  of.single_finish = O::finish;
  of.gradient_panels = D::panels;
  of.gradient_scratch_size = [](const Problem<T, E>&) { return D::scratch_size(); };
  of.gradient = D::run;
  return of;
}

#define RJ_CELLS(T, E)                                                                                    \
  {                                                                                                       \
    functions<T, E, SimpleCell<T, E, true>>(), functions<T, E, SimpleCell<T, E, false>>(),                \
        functions<T, E, LstmCell<T, E>>(), functions<T, E, GruCell<T, E>>()                               \
  }
#define RJ_STRING_(x) #x
#define RJ_STRING(x) RJ_STRING_(x)

}  // namespace

extern const InstructionSet instruction_set;
const InstructionSet instruction_set = {RJ_STRING(RJ_SET), RJ_CELLS(float, float), RJ_CELLS(double, double),
                                        RJ_CELLS(float, Bfloat16)};

}  // namespace RJ_SET
}  // namespace recurrent_jax
