// The weights' gradients: d_W_x = xs^T d_gates, d_W_h = h_before^T d_gates, and those of the biases.
#pragma once
#include "cells.h"
#include "problem.h"
#include "product.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

template <class T, class E, class C>
struct Gradient {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int W = S::W, G = C::kGates, N = 4;
  using Tile = Product<T, T, N>;
  // Columns of a panel, all of one gate.
  static constexpr ptrdiff_t kWidth = N * W;
  // Steps and rows whose products are added to a gradient at once.
  static constexpr ptrdiff_t kSummed = 256;

  static ptrdiff_t panels_of_gate(ptrdiff_t units) { return (units + kWidth - 1) / kWidth; }
  static ptrdiff_t panels(ptrdiff_t units) { return G * panels_of_gate(units); }

  // What a share works in.
  struct Scratch {
    const E **xs, **hs, **gates, **extras;
    T* panel;
    explicit Scratch(Arena& arena) {
      xs = arena.take<const E*>(kSummed);
      hs = arena.take<const E*>(kSummed);
      gates = arena.take<const E*>(kSummed);
      extras = arena.take<const E*>(kSummed);
      panel = arena.take<T>(kSummed * kWidth);
    }
  };
  static ptrdiff_t scratch_size() {
    Arena arena(nullptr);
    Scratch scratch(arena);
    return arena.used();
  }

  static void run(const Problem<T, E>& q, const Share& share, char* memory) {
    Arena arena(memory);
    const Scratch scratch(arena);
    const ptrdiff_t all = q.steps * q.rows;
    bool is_first = true;
    // At least once, so that there is a zero where there is no step.
    for (ptrdiff_t at = 0; at < all || is_first; is_first = false) {
      ptrdiff_t count = 0;
      for (; at < all && count < kSummed; ++at) {
        if (q.keep && !q.keep[at]) continue;
        const ptrdiff_t t = at / q.rows, row = at % q.rows * q.units, before = q.reverse ? t + 1 : t - 1;
        scratch.xs[count] = q.xs + at * q.features;
        scratch.hs[count] = q.reset && q.reset[at]                 ? q.initial_h + row
                            : t == (q.reverse ? q.steps - 1 : 0) ? q.h0 + row
                                                                 : q.hs + before * q.rows * q.units + row;
        scratch.gates[count] = q.gates + at * G * q.units;
        if constexpr (C::kHasExtra) scratch.extras[count] = q.extra + at * q.units;
        ++count;
      }
      for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) accumulate(q, p, scratch, count, is_first);
    }
  }

  // Adds the products of `count` steps and rows to the columns of panel `p`, or begins these with them.
  static void accumulate(const Problem<T, E>& q, ptrdiff_t p, const Scratch& scratch, ptrdiff_t count, bool is_first) {
    const ptrdiff_t gate = p / panels_of_gate(q.units), unit = p % panels_of_gate(q.units) * kWidth;
    const ptrdiff_t wide = smaller(kWidth, q.units - unit), column = gate * q.units + unit;
    pack(scratch.gates, column, wide, count, scratch.panel, q.d_bias + column, is_first);
    multiply(scratch.xs, q.features, G * q.units, wide, scratch.panel, count, q.d_w_x + column, is_first);
    if (C::kHasExtra && gate == G - 1)
      pack(scratch.extras, unit, wide, count, scratch.panel, q.d_bias_n + unit, is_first);
    multiply(scratch.hs, q.units, G * q.units, wide, scratch.panel, count, q.d_w_h + column, is_first);
  }

  // panel [row] = `wide` numbers of each row from `column` on, with zeros behind them; bias += their sum.
  static void pack(const E* const* rows, ptrdiff_t column, ptrdiff_t wide, ptrdiff_t count, T* panel, T* bias,
                   bool is_first) {
    V sums[N] = {};
    for (ptrdiff_t r = 0; r < count; ++r) {
      const E* from = rows[r] + column;
      T* to = panel + r * kWidth;
      for (int n = 0; n < N; ++n) {
        if (wide >= (n + 1) * W) {
          S::store(to + n * W, S::load(from + n * W));
        } else {
          for (ptrdiff_t i = n * W; i < (n + 1) * W; ++i) to[i] = i < wide ? convert<T>(from[i]) : T(0);
        }
        sums[n] += S::load(to + n * W);
      }
    }
    T total[kWidth];
    for (int n = 0; n < N; ++n) S::store(total + n * W, sums[n]);
    if (is_first) zero(wide, bias);
    add(total, wide, bias);
  }

  // target [depth][wide], `stride` apart, += left^T [depth][count] panel [count][N W].
  static void multiply(const E* const* left, ptrdiff_t depth, ptrdiff_t stride, ptrdiff_t wide, const T* panel,
                       ptrdiff_t count, T* target, bool is_first) {
    Tile::tiles(depth, [&](ptrdiff_t first, int high) {
      Tile::template with_rows<Tile::kRows>(high, [&](auto rows) {
        tile<rows()>(left, first, stride, wide, panel, count, target + first * stride, is_first);
      });
    });
  }

  template <int M>
  static inline void tile(const E* const* left, ptrdiff_t first, ptrdiff_t stride, ptrdiff_t wide, const T* panel,
                          ptrdiff_t count, T* target, bool is_first) {
    V total[M][N] = {};
    for (ptrdiff_t r = 0; r < count; ++r) {
      const E* x = left[r] + first;
      V b[N];
      for (int n = 0; n < N; ++n) b[n] = S::load(panel + r * kWidth + n * W);
      for (int m = 0; m < M; ++m) {
        const V a = S::all(convert<T>(x[m]));
        for (int n = 0; n < N; ++n) total[m][n] += a * b[n];
      }
    }
    for (int m = 0; m < M; ++m, target += stride) {
      if (wide == kWidth) {
        for (int n = 0; n < N; ++n)
          S::store(target + n * W, is_first ? total[m][n] : S::load(target + n * W) + total[m][n]);
        continue;
      }
      T own[kWidth];
      for (int n = 0; n < N; ++n) S::store(own + n * W, total[m][n]);
      if (is_first) zero(wide, target);
      add(own, wide, target);
    }
  }
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
