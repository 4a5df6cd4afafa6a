// The forward pass: pack, then for each step x W_x + b + h W_h and, from sums that are still in the first cache, the
// elementwise half.
#pragma once
#include "cells.h"
#include "problem.h"
#include "product.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

template <class T, class E, class C>
struct Forward {
  using S = Simd<T>;
  static constexpr int W = S::W, G = C::kGates;
  // Vectors of units in a panel, which holds all gates of these units.
  static constexpr int kVectors = G == 1 ? 4 : 1;
  static constexpr int kSlots = G + C::kHasExtra;
  static_assert(kVectors == 1 || kSlots == G);
  using Panel = Product<T, E, kVectors * G>;
  using P = typename Panel::P;
  // Sums of one row and panel.
  static constexpr ptrdiff_t kSums = kVectors * kSlots * W;
  // Rows that pass by one panel.
  static constexpr ptrdiff_t kPassing = 48;
  // Below so many rows a step, inputs of some steps are projected together, so that W_x is read for as many at once.
  static constexpr ptrdiff_t kProjected = 16;

  // Units in a panel, and how many panels there are.
  static constexpr ptrdiff_t kUnits = kVectors * W;
  static ptrdiff_t panels(ptrdiff_t units) { return (units + kUnits - 1) / kUnits; }
  // Numbers in a panel.
  static ptrdiff_t panel_size(ptrdiff_t features, ptrdiff_t units) {
    return Panel::size(features) + Panel::size(units);
  }
  static ptrdiff_t packed_size(ptrdiff_t features, ptrdiff_t units) {
    return panels(units) * panel_size(features, units) * sizeof(P);
  }

  // A panel has rows of W_x, its gates in the order of their slots, and below them those of W_h.
  static void pack(const Problem<T, E>& q, const Share& share) {
    const ptrdiff_t columns = G * q.units;
    for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) {
      P* panel = static_cast<P*>(q.panels) + p * panel_size(q.features, q.units);
      for (const bool is_recurrent : {false, true}) {
        const ptrdiff_t depth = is_recurrent ? q.units : q.features;
        // Rows that only fill up a pair are zeros.
        for (ptrdiff_t k = 0; k < Panel::size(depth) / Panel::kWidth; ++k) {
          const E* row = (is_recurrent ? q.w_h : q.w_x) + k * columns;
          for (int v = 0; v < kVectors; ++v) {
            const ptrdiff_t unit = p * kUnits + v * W, wide = smaller(W, q.units - unit);
            for (int s = 0; s < G; ++s) {
              const ptrdiff_t gate = is_recurrent ? s : C::gate_of(s);
              Panel::put(row + gate * q.units + unit, k < depth && wide > 0 ? wide : 0, k, v * G + s, panel);
            }
          }
        }
        panel += Panel::size(depth);
      }
    }
  }

  // What a share works in.
  struct Scratch {
    ptrdiff_t together;  // steps whose inputs are projected at once
    Place<T, E>* places;
    const E **xs, **hs;
    T* sums;
    Scratch(const Problem<T, E>& q, const Share& share, Arena& arena) {
      const ptrdiff_t rows = share.rows(), own = share.panel_end - share.panel_begin;
      together = rows ? smaller((kProjected + rows - 1) / rows, q.steps) : 1;
      places = arena.take<Place<T, E>>(rows);
      xs = arena.take<const E*>(together * rows);
      hs = arena.take<const E*>(rows);
      sums = arena.take<T>((together > 1 ? own * together * rows : kPassing) * kSums);
    }
  };

  // sums = b + x W_x of one panel and `count` rows.
  static void project(const Problem<T, E>& q, ptrdiff_t p, const E* const* xs, ptrdiff_t count, T* sums) {
    T bias[kSums] = {};
    for (int v = 0; v < kVectors; ++v) {
      const ptrdiff_t unit = p * kUnits + v * W, wide = smaller(W, q.units - unit);
      T* own = bias + v * kSlots * W;
      for (int s = 0; s < G; ++s) add(q.bias + C::gate_of(s) * q.units + unit, wide, own + s * W);
      if constexpr (C::kHasExtra) add(q.bias_n + unit, wide, own + G * W);
    }
    for (ptrdiff_t i = 0; i < count; ++i)
      for (ptrdiff_t j = 0; j < kSums; j += W) S::store(sums + i * kSums + j, S::load(bias + j));
    const P* panel = static_cast<const P*>(q.panels) + p * panel_size(q.features, q.units);
    Panel::add(xs, count, q.features, panel, sums, kSums);
  }

  // sums += h W_h of one panel and `count` rows, and the elementwise half.
  static void advance(const Problem<T, E>& q, ptrdiff_t p, const E* const* hs, const Place<T, E>* rows, ptrdiff_t count,
                      T* sums) {
    const P* panel = static_cast<const P*>(q.panels) + p * panel_size(q.features, q.units) + Panel::size(q.features);
    Panel::add(hs, count, q.units, panel, sums + (C::kHasExtra ? W : 0), kSums);
    for (ptrdiff_t i = 0; i < count; ++i)
      for (int v = 0; v < kVectors; ++v) {
        const ptrdiff_t unit = p * kUnits + v * W;
        if (unit >= q.units) break;
        const T* own = sums + i * kSums + v * kSlots * W;
        with_vector<G, false>(rows[i], unit, q.units - unit, [&](const Place<T, E>& at) { C::forward(at, own); });
      }
  }

  // Where row `b` is at step `s`; false where it is masked, and then `wide` units from `first` on keep their state.
  static bool place(const Problem<T, E>& q, ptrdiff_t s, ptrdiff_t b, ptrdiff_t first, ptrdiff_t wide,
                    Place<T, E>& place) {
    const ptrdiff_t t = q.reverse ? q.steps - 1 - s : s, before = q.reverse ? t + 1 : t - 1;
    const ptrdiff_t row = b * q.units, at = t * q.rows * q.units + row, last = before * q.rows * q.units + row;
    place = {};
    place.stride = q.units;
    place.h_before = s ? q.hs + last : q.h0 + row;
    place.h = q.hs + at;
    if constexpr (C::kHasC) {
      place.c_before = !s ? q.c0 + row : q.cs ? q.cs + last : q.c_last + row;
      place.c = q.cs ? q.cs + at : q.c_last + row;
    }
    if constexpr (C::kHasPeepholes) place.peepholes = q.peepholes;
    if (q.keep && !q.keep[t * q.rows + b]) {
      copy(place.h_before + first, wide, place.h + first);
      if (place.c != place.c_before) copy(place.c_before + first, wide, place.c + first);
      // Nobody reads them, but they are saved where users may look for NaN.
      for (int g = 0; q.gates && g < G; ++g) zero(wide, q.gates + at * G + g * q.units + first);
      if constexpr (C::kHasExtra)
        if (q.extra) zero(wide, q.extra + at + first);
      return false;
    }
    if (q.reset && q.reset[t * q.rows + b]) {
      place.h_before = q.initial_h + row;
      if constexpr (C::kHasC) place.c_before = q.initial_c + row;
    }
    if (q.gates) {
      place.gates = q.gates + at * G;
      if constexpr (C::kHasExtra) place.extra = q.extra + at;
    }
    return true;
  }

  // The rows of step `s` that are not masked: their places, and what W_h multiplies.
  static ptrdiff_t collect(const Problem<T, E>& q, const Share& share, ptrdiff_t s, const Scratch& scratch) {
    const ptrdiff_t first = share.panel_begin * kUnits, wide = smaller(share.panel_end * kUnits, q.units) - first;
    ptrdiff_t active = 0;
    for (ptrdiff_t b = share.row_begin; b < share.row_end; b += share.row_step) {
      Place<T, E>& here = scratch.places[active];
      if (place(q, s, b, first, wide, here)) scratch.hs[active++] = here.h_before;
    }
    return active;
  }

  static ptrdiff_t collect_inputs(const Problem<T, E>& q, const Share& share, ptrdiff_t s, const E** xs) {
    const ptrdiff_t t = q.reverse ? q.steps - 1 - s : s;
    ptrdiff_t active = 0;
    for (ptrdiff_t b = share.row_begin; b < share.row_end; b += share.row_step)
      if (!q.keep || q.keep[t * q.rows + b]) xs[active++] = q.xs + (t * q.rows + b) * q.features;
    return active;
  }

  static void run(const Problem<T, E>& q, const Share& share, Gang* gang, char* memory) {
    Arena arena(memory);
    const Scratch scratch(q, share, arena);
    for (ptrdiff_t from = 0; from < q.steps; from += scratch.together) {
      const ptrdiff_t to = smaller(from + scratch.together, q.steps);
      ptrdiff_t inputs = 0, done = 0;
      for (ptrdiff_t s = from; s < to; ++s) inputs += collect_inputs(q, share, s, scratch.xs + inputs);
      const bool ahead = scratch.together > 1;
      for (ptrdiff_t p = share.panel_begin; ahead && p < share.panel_end; ++p)
        project(q, p, scratch.xs, inputs, scratch.sums + (p - share.panel_begin) * inputs * kSums);
      for (ptrdiff_t s = from; s < to; ++s) {
        const ptrdiff_t active = collect(q, share, s, scratch);
        for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p)
          for (ptrdiff_t first = 0; first < active; first += kPassing) {
            const ptrdiff_t here = smaller(kPassing, active - first);
            T* sums = scratch.sums;
            if (ahead) sums += ((p - share.panel_begin) * inputs + done + first) * kSums;
            else project(q, p, scratch.xs + first, here, sums);
            advance(q, p, scratch.hs + first, scratch.places + first, here, sums);
          }
        done += active;
        if (gang) gang->barrier();
      }
    }
    if (!C::kHasC || !q.cs || !q.steps) return;
    const ptrdiff_t first = share.panel_begin * kUnits, wide = smaller(share.panel_end * kUnits, q.units) - first;
    const T* last = q.cs + (q.reverse ? 0 : q.steps - 1) * q.rows * q.units;
    for (ptrdiff_t b = share.row_begin; b < share.row_end; b += share.row_step)
      copy(last + b * q.units + first, wide, q.c_last + b * q.units + first);
  }
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
