// The gradient of the inputs, d_xs = d_gates W_x^T, of all steps at once.
#pragma once
#include "problem.h"
#include "product.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

template <class T, class E, class C>
struct Inputs {
  static constexpr int G = C::kGates;
  using Panel = Product<T, E, 4>;
  using P = typename Panel::P;
  static constexpr ptrdiff_t kFeatures = Panel::kWidth;
  static constexpr ptrdiff_t kPassing = 48;

  static ptrdiff_t panels(ptrdiff_t features) { return (features + kFeatures - 1) / kFeatures; }
  static ptrdiff_t panel_size(ptrdiff_t units) { return Panel::size(G * units); }
  static ptrdiff_t packed_size(ptrdiff_t features, ptrdiff_t units) {
    return panels(features) * panel_size(units) * sizeof(P);
  }

  // A panel has columns of W_x^T: for each of its features, that feature's row of W_x.
  static void pack(const Problem<T, E>& q, const Share& share) {
    const ptrdiff_t columns = G * q.units;
    for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p)
      Panel::transpose(q.w_x + p * kFeatures * columns, columns, smaller(kFeatures, q.features - p * kFeatures), columns,
                       static_cast<P*>(q.panels) + p * panel_size(q.units));
  }

  struct Scratch {
    const E** gates;
    E** targets;
    T* sums;
    explicit Scratch(Arena& arena) {
      gates = arena.take<const E*>(kPassing);
      targets = arena.take<E*>(kPassing);
      sums = arena.take<T>(kPassing * kFeatures);
    }
  };

  static void run(const Problem<T, E>& q, const Share& share, char* memory) {
    Arena arena(memory);
    const Scratch scratch(arena);
    const ptrdiff_t first = share.panel_begin * kFeatures;
    const ptrdiff_t own = smaller(share.panel_end * kFeatures, q.features) - first;
    for (ptrdiff_t at = share.row_begin; at < share.row_end;) {
      ptrdiff_t active = 0;
      for (; at < share.row_end && active < kPassing; at += share.row_step) {
        if (q.keep && !q.keep[at]) {
          zero(own, q.d_xs + at * q.features + first);
          continue;
        }
        scratch.gates[active] = q.gates + at * G * q.units;
        scratch.targets[active++] = q.d_xs + at * q.features;
      }
      for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) {
        const ptrdiff_t wide = smaller(kFeatures, q.features - p * kFeatures);
        zero(active * kFeatures, scratch.sums);
        Panel::add(scratch.gates, active, G * q.units, static_cast<const P*>(q.panels) + p * panel_size(q.units),
                   scratch.sums, kFeatures);
        for (ptrdiff_t i = 0; i < active; ++i)
          for (ptrdiff_t j = 0; j < wide; ++j)
            scratch.targets[i][p * kFeatures + j] = convert<E>(scratch.sums[i * kFeatures + j]);
      }
    }
  }
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
