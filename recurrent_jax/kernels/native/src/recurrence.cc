// The loops over time of every cell, compiled once for each instruction set RJ_SET, with vectors of RJ_BYTES and
// RJ_REGISTERS of them.
//
// Weights lie in panels of a few vectors of columns, row after row; a product keeps the sums of some rows and one panel
// in registers. Each sum is taken in the same order whatever the rows and threads beside it: results are the same to the
// last bit however the work is shared.
#include "backward.h"
#include "forward.h"
#include "gradient.h"
#include "inputs.h"
#include "single.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

template <class T, class E, class C>
struct Recurrence {
  using Ahead = Forward<T, E, C>;
  using Back = Backward<T, E, C>;
  using OfInputs = Inputs<T, E, C>;
  using OfWeights = Gradient<T, E, C>;
  using Step = Single<T, E, C>;
  using Q = Problem<T, E>;

  static ptrdiff_t panels(const Q& q, Direction direction) {
    switch (direction) {
      case Direction::kForward: return Ahead::panels(q.units);
      case Direction::kBackward: return Back::panels(q.units);
      default: return OfInputs::panels(q.features);
    }
  }
  static ptrdiff_t packed_size(const Q& q, Direction direction) {
    switch (direction) {
      case Direction::kForward:
        return is_single(q.steps, q.rows) ? Step::sums_size(q.rows, q.units) : Ahead::packed_size(q.features, q.units);
      case Direction::kBackward: return Back::packed_size(q.units);
      default: return OfInputs::packed_size(q.features, q.units);
    }
  }
  static ptrdiff_t scratch_size(const Q& q, const Share& share, Direction direction) {
    Arena arena(nullptr);
    switch (direction) {
      case Direction::kForward: typename Ahead::Scratch(q, share, arena); break;
      case Direction::kBackward: typename Back::Scratch(q, share, arena); break;
      default: typename OfInputs::Scratch{arena};
    }
    return arena.used();
  }
  static void pack(const Q& q, const Share& share, Direction direction) {
    switch (direction) {
      case Direction::kForward: return Ahead::pack(q, share);
      case Direction::kBackward: return Back::pack(q, share);
      default: return OfInputs::pack(q, share);
    }
  }
  static void run(const Q& q, const Share& share, Direction direction, Gang* gang, char* scratch) {
    switch (direction) {
      case Direction::kForward: return Ahead::run(q, share, gang, scratch);
      case Direction::kBackward: return Back::run(q, share, gang, scratch);
      default: return OfInputs::run(q, share, scratch);
    }
  }

  static constexpr Functions<T, E> functions() {
    return {C::kGates,      panels,         packed_size,  scratch_size,      pack,
            run,            Step::panels,   Step::multiply, Step::finish,    OfWeights::panels,
            OfWeights::scratch_size, OfWeights::run};
  }
};


#define RJ_CELLS(T, E)                                                                                           \
  {                                                                                                              \
    Recurrence<T, E, SimpleCell<T, E, true>>::functions(), Recurrence<T, E, SimpleCell<T, E, false>>::functions(), \
        Recurrence<T, E, LstmCell<T, E, false>>::functions(), Recurrence<T, E, GruCell<T, E>>::functions(),      \
        Recurrence<T, E, LstmCell<T, E, true>>::functions(), Recurrence<T, E, CoupledLstmCell<T, E>>::functions() \
  }
#define RJ_STRING_(x) #x
#define RJ_STRING(x) RJ_STRING_(x)

}  // namespace

extern const InstructionSet instruction_set;
const InstructionSet instruction_set = {RJ_STRING(RJ_SET), RJ_CELLS(float, float), RJ_CELLS(double, double),
                                        RJ_CELLS(float, Bfloat16)};

}  // namespace RJ_SET
}  // namespace recurrent_jax
