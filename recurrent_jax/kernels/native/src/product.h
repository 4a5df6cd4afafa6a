// Products of rows and panels of weights, in tiles whose sums fill the registers.
#pragma once
#include <type_traits>

#include "memory.h"
#include "simd.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

// So much of a panel is read by one row after the other, from the second cache of any processor.
constexpr ptrdiff_t kBlockBytes = 128 * 1024;

// E is the type of the rows' numbers, T that of sums; a panel is N vectors of sums wide.
template <class T, class E, int N>
struct Product {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int W = S::W;
  static constexpr ptrdiff_t kWidth = N * W;
  // The sums leave registers for N vectors of the panel, or fewer where an operand may lie in memory.
  static constexpr int kRows = (RJ_REGISTERS == 16 ? 12 : RJ_REGISTERS - 5) / N;
  // Where the processor multiplies and adds pairs, a panel has two numbers of a column side by side.
  static constexpr int kPair = has_pairs<E> ? 2 : 1;
  // What a panel consists of.
  using P = std::conditional_t<has_pairs<E>, E, T>;
  static constexpr ptrdiff_t kBlock = kBlockBytes / (kWidth * sizeof(P)) / 2 * 2;

  // Numbers in a panel of `depth` rows.
  static constexpr ptrdiff_t size(ptrdiff_t depth) { return (depth + kPair - 1) / kPair * kPair * kWidth; }

  // Writes row k of a panel: `count` numbers, from vector n on, and zeros up to the next vector.
  static inline void put(const E* from, ptrdiff_t count, ptrdiff_t k, int n, P* panel) {
    P* to = panel + k / kPair * kPair * kWidth + n * W * kPair + k % kPair;
    if (kPair == 1 && count == W) return S::store(to, S::load(from));
    for (ptrdiff_t i = 0; i < W; ++i) to[i * kPair] = i < count ? convert<P>(from[i]) : P{};
  }

  // panel [k][column] = from [column][k], for `columns` lines of `from`, `stride` apart; zeros in the other columns.
  static void transpose(const E* from, ptrdiff_t stride, ptrdiff_t columns, ptrdiff_t depth, P* panel) {
    // Few k at a time: what is written stays in the first cache until its lines are full.
    for (ptrdiff_t begin = 0; begin < depth; begin += 32) {
      const ptrdiff_t end = smaller(begin + 32, size(depth) / kWidth);
      for (ptrdiff_t j = 0; j < kWidth; ++j)
        for (ptrdiff_t k = begin; k < end; ++k) {
          P* to = panel + k / kPair * kPair * kWidth + j * kPair + k % kPair;
          *to = j < columns && k < depth ? convert<P>(from[j * stride + k]) : P{};
        }
    }
  }

  // Calls body(first row, rows) for tiles of nearly the same height: a low one takes nearly as long as a high one.
  template <class Body>
  static inline void tiles(ptrdiff_t count, const Body& body) {
    const ptrdiff_t tiles = (count + kRows - 1) / kRows;
    for (ptrdiff_t row = 0, i = 0; i < tiles; ++i) {
      const ptrdiff_t high = (count - row + tiles - i - 1) / (tiles - i);
      body(row, static_cast<int>(high));
      row += high;
    }
  }

  // Calls body(M) with the number of rows as a constant.
  template <int M, class Body>
  static inline void with_rows(int rows, const Body& body) {
    if (rows == M) return body(std::integral_constant<int, M>());
    if constexpr (M > 1) with_rows<M - 1>(rows, body);
  }

  // sums [M][N W], `stride` apart, += rows [M][from `begin`, `depth`] panel [depth][N W].
  template <int M>
  static inline void tile(const E* const* rows, ptrdiff_t begin, ptrdiff_t depth, const P* panel, T* sums,
                          ptrdiff_t stride) {
    const E* row[M];
    V total[M][N];
    for (int m = 0; m < M; ++m) {
      row[m] = rows[m] + begin;
      for (int n = 0; n < N; ++n) total[m][n] = S::load(sums + m * stride + n * W);
    }
    if constexpr (kPair == 1) {
      for (ptrdiff_t k = 0; k < depth; ++k) {
        V b[N];
        for (int n = 0; n < N; ++n) b[n] = S::load(panel + k * kWidth + n * W);
        for (int m = 0; m < M; ++m) {
          const V x = S::all(convert<T>(row[m][k]));
          for (int n = 0; n < N; ++n) total[m][n] += x * b[n];
        }
      }
    } else {
      const auto pairs = [&](ptrdiff_t k, ptrdiff_t numbers) {
        typename S::Pairs b[N];
        for (int n = 0; n < N; ++n) b[n] = S::load_pairs(panel + k * kWidth + n * W * kPair);
        for (int m = 0; m < M; ++m) {
          const auto x = S::all_pairs(row[m] + k, numbers);
          for (int n = 0; n < N; ++n) total[m][n] = S::add_pairs(total[m][n], x, b[n]);
        }
      };
      for (ptrdiff_t k = 0; k + 1 < depth; k += 2) pairs(k, 2);
      // The number behind the last one of an odd row is not the row's.
      if (depth % 2) pairs(depth - 1, 1);
    }
    for (int m = 0; m < M; ++m)
      for (int n = 0; n < N; ++n) S::store(sums + m * stride + n * W, total[m][n]);
  }

  // sums [count][N W] += rows [count][depth] panel [depth][N W].
  static void add(const E* const* rows, ptrdiff_t count, ptrdiff_t depth, const P* panel, T* sums, ptrdiff_t stride) {
    for (ptrdiff_t begin = 0; begin < depth; begin += kBlock) {
      const ptrdiff_t deep = smaller(kBlock, depth - begin);
      tiles(count, [&](ptrdiff_t first, int high) {
        with_rows<kRows>(high, [&](auto rows_high) {
          tile<rows_high()>(rows + first, begin, deep, panel + begin * kWidth, sums + first * stride, stride);
        });
      });
    }
  }
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
