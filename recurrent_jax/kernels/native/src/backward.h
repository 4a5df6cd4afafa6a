// The backward pass: from the last step to the first the elementwise half, which writes gradients over the gates, and
// dh += d_gates W_h^T.
#pragma once
#include "cells.h"
#include "problem.h"
#include "product.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

template <class T, class E, class C>
struct Backward {
  using S = Simd<T>;
  static constexpr int W = S::W, G = C::kGates;
  using Panel = Product<T, E, 4>;
  using P = typename Panel::P;
  // Gates whose gradient W_h^T multiplies as it is: of a GRU's n, what is recurrent went through the reset gate.
  static constexpr int kPlain = C::kHasExtra ? G - 1 : G;
  static constexpr ptrdiff_t kPassing = 48;

  static constexpr ptrdiff_t kUnits = Panel::kWidth;
  static ptrdiff_t panels(ptrdiff_t units) { return (units + kUnits - 1) / kUnits; }
  // Numbers in a panel.
  static ptrdiff_t panel_size(ptrdiff_t units) {
    return Panel::size(kPlain * units) + (C::kHasExtra ? Panel::size(units) : 0);
  }
  static ptrdiff_t packed_size(ptrdiff_t units) { return panels(units) * panel_size(units) * sizeof(P); }

  // A panel has columns of W_h^T: for each of its units, that unit's row of W_h.
  static void pack(const Problem<T, E>& q, const Share& share) {
    const ptrdiff_t plain = kPlain * q.units, columns = G * q.units;
    for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) {
      P* panel = static_cast<P*>(q.panels) + p * panel_size(q.units);
      const E* first = q.w_h + p * kUnits * columns;
      const ptrdiff_t here = smaller(kUnits, q.units - p * kUnits);
      Panel::transpose(first, columns, here, plain, panel);
      if constexpr (C::kHasExtra) Panel::transpose(first + plain, columns, here, q.units, panel + Panel::size(plain));
    }
  }

  // What a share works in.
  struct Scratch {
    const E **gates, **extras;
    T **targets, *sums;
    Scratch(const Problem<T, E>&, const Share& share, Arena& arena) {
      const ptrdiff_t rows = share.rows();
      gates = arena.take<const E*>(rows);
      extras = arena.take<const E*>(rows);
      targets = arena.take<T*>(rows);
      sums = arena.take<T>(kPassing * kUnits);
    }
  };

  // The elementwise half of step `s`, for the share's units: the rows that are not masked.
  static ptrdiff_t differentiate(const Problem<T, E>& q, const Share& share, ptrdiff_t s, const Scratch& scratch) {
    const ptrdiff_t begin = share.panel_begin * kUnits, end = smaller(share.panel_end * kUnits, q.units);
    const ptrdiff_t t = q.reverse ? q.steps - 1 - s : s, before = q.reverse ? t + 1 : t - 1;
    ptrdiff_t active = 0;
    for (ptrdiff_t b = share.row_begin; b < share.row_end; b += share.row_step) {
      const ptrdiff_t row = b * q.units, at = t * q.rows * q.units + row, last = before * q.rows * q.units + row;
      const bool is_reset = q.reset && q.reset[t * q.rows + b];
      Place<T, E> place = {};
      place.stride = q.units;
      place.gates = q.gates + at * G;
      place.h_before = is_reset ? q.initial_h + row : s ? q.hs + last : q.h0 + row;
      place.h = q.hs + at;
      place.dh = q.dh + row;
      if constexpr (C::kHasExtra) place.extra = q.extra + at;
      if constexpr (C::kHasPeepholes) place.peepholes = q.peepholes;
      if constexpr (C::kHasC) {
        place.c_before = is_reset ? q.initial_c + row : s ? q.cs + last : q.c0 + row;
        place.c = q.cs + at;
        place.dc = q.dc + row;
        if (q.d_cs) add(q.d_cs + at + begin, end - begin, place.dc + begin);
      }
      if (q.d_hs) add(q.d_hs + at + begin, end - begin, place.dh + begin);
      if (q.keep && !q.keep[t * q.rows + b]) {
        for (int g = 0; g < G; ++g) zero(end - begin, place.gates + g * q.units + begin);
        if constexpr (C::kHasExtra) zero(end - begin, place.extra + begin);
        continue;
      }
      add(q.d_ys + at + begin, end - begin, place.dh + begin);
      for (ptrdiff_t u = begin; u < end; u += W)
        with_vector<G, true>(place, u, end - u, [](const Place<T, E>& here) { C::backward(here); });
      scratch.gates[active] = place.gates;
      scratch.extras[active] = place.extra;
      scratch.targets[active++] = place.dh;
    }
    return active;
  }

  // dh += d_gates W_h^T of one step, for the share's units.
  static void retreat(const Problem<T, E>& q, const Share& share, const Scratch& scratch, ptrdiff_t active) {
    const ptrdiff_t plain = kPlain * q.units;
    for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) {
      const P* panel = static_cast<const P*>(q.panels) + p * panel_size(q.units);
      const ptrdiff_t wide = smaller(kUnits, q.units - p * kUnits);
      for (ptrdiff_t first = 0; first < active; first += kPassing) {
        const ptrdiff_t here = smaller(kPassing, active - first);
        zero(here * kUnits, scratch.sums);
        Panel::add(scratch.gates + first, here, plain, panel, scratch.sums, kUnits);
        if constexpr (C::kHasExtra)
          Panel::add(scratch.extras + first, here, q.units, panel + Panel::size(plain), scratch.sums, kUnits);
        for (ptrdiff_t i = 0; i < here; ++i)
          add(scratch.sums + i * kUnits, wide, scratch.targets[first + i] + p * kUnits);
      }
    }
  }

  // Where step `s` began with the initial carry, the cotangents are that one's.
  static void hand_to_initial(const Problem<T, E>& q, const Share& share, ptrdiff_t s) {
    const ptrdiff_t begin = share.panel_begin * kUnits, wide = smaller(share.panel_end * kUnits, q.units) - begin;
    const ptrdiff_t t = q.reverse ? q.steps - 1 - s : s;
    for (ptrdiff_t b = share.row_begin; b < share.row_end; b += share.row_step) {
      if (!q.reset[t * q.rows + b] || (q.keep && !q.keep[t * q.rows + b])) continue;
      const ptrdiff_t at = b * q.units + begin;
      add(q.dh + at, wide, q.d_initial_h + at);
      zero(wide, q.dh + at);
      if constexpr (C::kHasC) {
        add(q.dc + at, wide, q.d_initial_c + at);
        zero(wide, q.dc + at);
      }
    }
  }

  static void run(const Problem<T, E>& q, const Share& share, Gang* gang, char* memory) {
    Arena arena(memory);
    const Scratch scratch(q, share, arena);
    for (ptrdiff_t s = q.steps - 1; s >= 0; --s) {
      const ptrdiff_t active = differentiate(q, share, s, scratch);
      if (gang) gang->barrier();
      retreat(q, share, scratch, active);
      if (q.reset) hand_to_initial(q, share, s);
    }
  }
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
