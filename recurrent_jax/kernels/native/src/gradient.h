// The weights' gradients: d_W_x = xs^T d_gates, d_W_h = h_before^T d_gates, and those of biases and peepholes.
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
  using Tile = Product<T, E, N>;
  using P = typename Tile::P;
  static constexpr int kPair = Tile::kPair;
  // Columns of a panel, all of one gate.
  static constexpr ptrdiff_t kWidth = Tile::kWidth;
  // Steps and rows whose products are added to a gradient at once, an even number.
  static constexpr ptrdiff_t kSummed = 512;

  static ptrdiff_t panels_of_gate(ptrdiff_t units) { return (units + kWidth - 1) / kWidth; }
  static ptrdiff_t panels(ptrdiff_t units) { return G * panels_of_gate(units); }

  // What stands at the left of a product: where the rows are, and, of a processor that multiplies pairs, every two of
  // them as one of pairs.
  struct Left {
    ptrdiff_t depth;
    const E** rows;
    E* pairs;
    Left(ptrdiff_t depth, Arena& arena) : depth(depth) {
      rows = arena.take<const E*>(kSummed);
      pairs = arena.take<E>(kPair == 2 ? kSummed * depth : 0);
    }
    void make_pairs(ptrdiff_t count) const {
      for (ptrdiff_t r = 0; kPair == 2 && r < count; r += 2)
        for (ptrdiff_t k = 0; k < depth; ++k) {
          pairs[r * depth + 2 * k] = rows[r][k];
          pairs[r * depth + 2 * k + 1] = r + 1 < count ? rows[r + 1][k] : E{};
        }
    }
  };

  // What a share works in.
  struct Scratch {
    Left xs, hs;
    const E **gates, **extras;
    const T **cs_before, **cs;
    P* panel;
    Scratch(const Problem<T, E>& q, Arena& arena) : xs(q.features, arena), hs(q.units, arena) {
      gates = arena.take<const E*>(kSummed);
      extras = arena.take<const E*>(C::kHasExtra ? kSummed : 0);
      cs_before = arena.take<const T*>(C::kHasPeepholes ? kSummed : 0);
      cs = arena.take<const T*>(C::kHasPeepholes ? kSummed : 0);
      panel = arena.take<P>(kSummed * kWidth);
    }
  };
  static ptrdiff_t scratch_size(const Problem<T, E>& q) {
    Arena arena(nullptr);
    Scratch scratch(q, arena);
    return arena.used();
  }

  static void run(const Problem<T, E>& q, const Share& share, char* memory) {
    Arena arena(memory);
    const Scratch scratch(q, arena);
    const ptrdiff_t all = q.steps * q.rows;
    bool is_first = true;
    // At least once, so that there is a zero where there is no step.
    for (ptrdiff_t at = 0; at < all || is_first; is_first = false) {
      ptrdiff_t count = 0;
      for (; at < all && count < kSummed; ++at) {
        if (q.keep && !q.keep[at]) continue;
        const ptrdiff_t t = at / q.rows, row = at % q.rows * q.units;
        const auto before = [&](const auto* initial, const auto* first, const auto* after) {
          return q.reset && q.reset[at]               ? initial + row
                 : t == (q.reverse ? q.steps - 1 : 0) ? first + row
                                                      : after + (q.reverse ? t + 1 : t - 1) * q.rows * q.units + row;
        };
        scratch.xs.rows[count] = q.xs + at * q.features;
        scratch.hs.rows[count] = before(q.initial_h, q.h0, static_cast<const E*>(q.hs));
        scratch.gates[count] = q.gates + at * G * q.units;
        if constexpr (C::kHasExtra) scratch.extras[count] = q.extra + at * q.units;
        if constexpr (C::kHasPeepholes) {
          scratch.cs_before[count] = before(q.initial_c, q.c0, static_cast<const T*>(q.cs));
          scratch.cs[count] = q.cs + at * q.units;
        }
        ++count;
      }
      scratch.xs.make_pairs(count);
      scratch.hs.make_pairs(count);
      for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) accumulate(q, p, scratch, count, is_first);
    }
  }

  // Adds the products of `count` steps and rows to the columns of panel `p`, or begins these with them.
  static void accumulate(const Problem<T, E>& q, ptrdiff_t p, const Scratch& scratch, ptrdiff_t count, bool is_first) {
    const ptrdiff_t gate = p / panels_of_gate(q.units), unit = p % panels_of_gate(q.units) * kWidth;
    const ptrdiff_t wide = smaller(kWidth, q.units - unit), column = gate * q.units + unit;
    pack(scratch.gates, column, wide, count, scratch.panel, q.d_bias + column, is_first);
    multiply(scratch.xs, G * q.units, wide, scratch.panel, count, q.d_w_x + column, is_first);
    if (C::kHasExtra && gate == G - 1)
      pack(scratch.extras, unit, wide, count, scratch.panel, q.d_bias_n + unit, is_first);
    multiply(scratch.hs, G * q.units, wide, scratch.panel, count, q.d_w_h + column, is_first);
    if constexpr (C::kHasPeepholes) {
      const int peephole = C::peephole(static_cast<int>(gate));
      const T* const* seen = C::sees_new_c(static_cast<int>(gate)) ? scratch.cs : scratch.cs_before;
      if (peephole >= 0)
        add_peephole(scratch.gates, column, seen, unit, wide, count, q.d_peepholes + peephole * q.units + unit,
                     is_first);
    }
  }

  // panel [row] = `wide` numbers of each row from `column` on, with zeros behind them; bias += their sum.
  static void pack(const E* const* rows, ptrdiff_t column, ptrdiff_t wide, ptrdiff_t count, P* panel, T* bias,
                   bool is_first) {
    T total[kWidth] = {};
    for (ptrdiff_t r = 0; r < count; ++r) {
      const E* from = rows[r] + column;
      for (int n = 0; n < N; ++n) {
        const ptrdiff_t here = smaller(W, wide - n * W);
        Tile::put(from + n * W, here > 0 ? here : 0, r, n, panel);
      }
      add(from, wide, total);
    }
    if (count % kPair)
      for (int n = 0; n < N; ++n) Tile::put(nullptr, 0, count, n, panel);
    if (is_first) zero(wide, bias);
    add(total, wide, bias);
  }

  // target [depth][wide], `stride` apart, += left^T [depth][count] panel [count][N W].
  static void multiply(const Left& left, ptrdiff_t stride, ptrdiff_t wide, const P* panel, ptrdiff_t count, T* target,
                       bool is_first) {
    Tile::tiles(left.depth, [&](ptrdiff_t first, int high) {
      Tile::template with_rows<Tile::kRows>(high, [&](auto rows) {
        tile<rows()>(left, first, stride, wide, panel, count, target + first * stride, is_first);
      });
    });
  }

  template <int M>
  static inline void tile(const Left& left, ptrdiff_t first, ptrdiff_t stride, ptrdiff_t wide, const P* panel,
                          ptrdiff_t count, T* target, bool is_first) {
    V total[M][N] = {};
    for (ptrdiff_t r = 0; r < count; r += kPair) {
      const P* right = panel + r * kWidth;
      if constexpr (kPair == 1) {
        const E* x = left.rows[r] + first;
        V b[N];
        for (int n = 0; n < N; ++n) b[n] = S::load(right + n * W);
        for (int m = 0; m < M; ++m) {
          const V a = S::all(convert<T>(x[m]));
          for (int n = 0; n < N; ++n) total[m][n] += a * b[n];
        }
      } else {
        const E* x = left.pairs + r * left.depth + 2 * first;
        typename S::Pairs b[N];
        for (int n = 0; n < N; ++n) b[n] = S::load_pairs(right + n * 2 * W);
        for (int m = 0; m < M; ++m) {
          const auto a = S::all_pairs(x + 2 * m, 2);
          for (int n = 0; n < N; ++n) total[m][n] = S::add_pairs(total[m][n], a, b[n]);
        }
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

  // Adds to the gradient of a peephole that of the gate, times the c that it sees.
  static void add_peephole(const E* const* gates, ptrdiff_t column, const T* const* seen, ptrdiff_t unit,
                           ptrdiff_t wide, ptrdiff_t count, T* target, bool is_first) {
    T total[kWidth] = {};
    for (ptrdiff_t r = 0; r < count; ++r)
      for (ptrdiff_t u = 0; u < wide; ++u) total[u] += convert<T>(gates[r][column + u]) * seen[r][unit + u];
    if (is_first) zero(wide, target);
    add(total, wide, target);
  }
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
