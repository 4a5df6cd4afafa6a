// A single step of few rows, as in streaming: the weights are read once, where they lie, since to pack them would take
// longer.
#pragma once
#include "forward.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

template <class T, class E, class C>
struct Single {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int W = S::W, G = C::kGates;
  // Rows of the weights that are read side by side, so that sums are loaded and stored less often.
  static constexpr int kTogether = 8;

  // Bytes of x W_x + b and h W_h, [2][B][G H], which all shares compute together.
  static ptrdiff_t sums_size(ptrdiff_t rows, ptrdiff_t units) { return 2 * rows * G * units * sizeof(T); }
  // Vectors of columns, and those of units.
  static ptrdiff_t panels(ptrdiff_t units, bool of_units) { return ((of_units ? 1 : G) * units + W - 1) / W; }

  // Both products, for the share's columns.
  static void multiply(const Problem<T, E>& q, const Share& share) {
    const ptrdiff_t columns = G * q.units, begin = share.panel_begin * W;
    const ptrdiff_t wide = smaller(share.panel_end * W, columns) - begin;
    const E *xs[kSingleRows], *hs[kSingleRows];
    T* sums = static_cast<T*>(q.panels) + begin;
    for (ptrdiff_t b = 0; b < q.rows; ++b) {
      xs[b] = q.xs + b * q.features;
      hs[b] = (q.reset && q.reset[b] ? q.initial_h : q.h0) + b * q.units;
      zero(wide, sums + b * columns);
      add(q.bias + begin, wide, sums + b * columns);
      zero(wide, sums + (q.rows + b) * columns);
    }
    Product<T, E, 1>::template with_rows<kSingleRows>(static_cast<int>(q.rows), [&](auto rows) {
      stream<rows()>(xs, q.features, q.w_x + begin, columns, wide, sums);
      stream<rows()>(hs, q.units, q.w_h + begin, columns, wide, sums + q.rows * columns);
    });
  }

  // sums [M][wide] += rows [M][depth] weights [depth][wide], the latter two with lines `stride` apart.
  template <int M>
  static void stream(const E* const* rows, ptrdiff_t depth, const E* weights, ptrdiff_t stride, ptrdiff_t wide,
                     T* sums) {
    ptrdiff_t k = 0;
    for (; k + kTogether <= depth; k += kTogether) lines<M, kTogether>(rows, k, weights, stride, wide, sums);
    for (; k < depth; ++k) lines<M, 1>(rows, k, weights, stride, wide, sums);
  }

  template <int M, int K>
  static inline void lines(const E* const* rows, ptrdiff_t k, const E* weights, ptrdiff_t stride, ptrdiff_t wide,
                           T* sums) {
    T x[K][M];
    for (int i = 0; i < K; ++i)
      for (int m = 0; m < M; ++m) x[i][m] = convert<T>(rows[m][k + i]);
    const E* line = weights + k * stride;
    ptrdiff_t j = 0;
    for (; j + W <= wide; j += W) {
      V total[M];
      for (int m = 0; m < M; ++m) total[m] = S::load(sums + m * stride + j);
      for (int i = 0; i < K; ++i) {
        const V w = S::load(line + i * stride + j);
        for (int m = 0; m < M; ++m) total[m] += S::all(x[i][m]) * w;
      }
      for (int m = 0; m < M; ++m) S::store(sums + m * stride + j, total[m]);
    }
    for (; j < wide; ++j)
      for (int m = 0; m < M; ++m)
        for (int i = 0; i < K; ++i) sums[m * stride + j] += x[i][m] * convert<T>(line[i * stride + j]);
  }

  // The elementwise half, for the share's units.
  static void finish(const Problem<T, E>& q, const Share& share) {
    const ptrdiff_t columns = G * q.units, begin = share.panel_begin * W;
    const ptrdiff_t wide = smaller(share.panel_end * W, q.units) - begin;
    for (ptrdiff_t b = 0; b < q.rows; ++b) {
      const T *of_x = static_cast<const T*>(q.panels) + b * columns, *of_h = of_x + q.rows * columns;
      Place<T, E> place;
      const bool is_active = Forward<T, E, C>::place(q, 0, b, begin, wide, place);
      for (ptrdiff_t u = begin; is_active && u < begin + wide; u += W) {
        const ptrdiff_t here = smaller(W, q.units - u);
        T sums[(G + 1) * W] = {};
        for (int s = 0; s < G; ++s) {
          add(of_x + C::gate_of(s) * q.units + u, here, sums + s * W);
          add(of_h + s * q.units + u, here, sums + (s + C::kHasExtra) * W);
        }
        if constexpr (C::kHasExtra) add(q.bias_n + u, here, sums + G * W);
        with_vector<G>(place, u, here, [&](const Place<T, E>& at) { C::forward(at, sums); });
      }
      if (C::kHasC && q.cs) copy(place.c + begin, wide, q.c_last + b * q.units + begin);
    }
  }
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
