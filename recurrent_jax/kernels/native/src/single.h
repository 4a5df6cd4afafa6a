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
  // Gates whose products share a sum, and a row's sums: of a GRU's n, h W_hn + b_n is one by itself.
  static constexpr int kShared = C::kHasExtra ? G - 1 : G, kSums = G + C::kHasExtra;
  // Rows of the weights that are read side by side, so that sums are loaded and stored less often.
  static constexpr int kTogether = 8;

  // Bytes of the sums, [B][kSums H], which all shares compute together.
  static ptrdiff_t sums_size(ptrdiff_t rows, ptrdiff_t units) { return rows * kSums * units * sizeof(T); }
  // Vectors of columns, and those of units.
  static ptrdiff_t panels(ptrdiff_t units, bool of_units) { return ((of_units ? 1 : G) * units + W - 1) / W; }

  // Both products, for the share's columns. Each sum is taken in the order that more rows or steps have.
  static void multiply(const Problem<T, E>& q, const Share& share) {
    const ptrdiff_t columns = G * q.units, stride = kSums * q.units, shared = kShared * q.units;
    const ptrdiff_t begin = smaller(share.panel_begin * W, columns), end = smaller(share.panel_end * W, columns);
    // From here on the share's columns have a sum of h besides that of x.
    const ptrdiff_t middle = smaller(end, begin > shared ? begin : shared);
    const E *xs[kSingleRows], *hs[kSingleRows];
    T* sums = static_cast<T*>(q.panels);
    for (ptrdiff_t b = 0; b < q.rows; ++b) {
      xs[b] = q.xs + b * q.features;
      hs[b] = (q.reset && q.reset[b] ? q.initial_h : q.h0) + b * q.units;
      copy(q.bias + begin, end - begin, sums + b * stride + begin);
      if constexpr (C::kHasExtra)
        copy(q.bias_n + (middle - shared), end - middle, sums + b * stride + q.units + middle);
    }
    Product<T, E, 1>::template with_rows<kSingleRows>(static_cast<int>(q.rows), [&](auto rows) {
      stream<rows()>(xs, q.features, q.w_x + begin, columns, end - begin, sums + begin, stride);
      stream<rows()>(hs, q.units, q.w_h + begin, columns, middle - begin, sums + begin, stride);
      if constexpr (C::kHasExtra)
        stream<rows()>(hs, q.units, q.w_h + middle, columns, end - middle, sums + q.units + middle, stride);
    });
  }

  // sums [M][wide] += rows [M][depth] weights [depth][wide], with lines `stride` and `columns` apart.
  template <int M>
  static void stream(const E* const* rows, ptrdiff_t depth, const E* weights, ptrdiff_t columns, ptrdiff_t wide,
                     T* sums, ptrdiff_t stride) {
    if (wide <= 0) return;
    ptrdiff_t k = 0;
    for (; k + kTogether <= depth; k += kTogether)
      lines<M, kTogether>(rows, k, weights + k * columns, columns, wide, sums, stride);
    for (; k + 2 <= depth; k += 2) lines<M, 2>(rows, k, weights + k * columns, columns, wide, sums, stride);
    if (k < depth) lines<M, 1>(rows, k, weights + k * columns, columns, wide, sums, stride);
  }

  // The same for K of the depth, from `k` on.
  template <int M, int K>
  static inline void lines(const E* const* rows, ptrdiff_t k, const E* weights, ptrdiff_t columns, ptrdiff_t wide,
                           T* sums, ptrdiff_t stride) {
    if constexpr (!has_pairs<E>) {
      T x[K][M];
      for (int i = 0; i < K; ++i)
        for (int m = 0; m < M; ++m) x[i][m] = convert<T>(rows[m][k + i]);
      vectors<M, K>(weights, columns, wide, sums, stride, [&](const E* line, ptrdiff_t apart, V* total) {
        for (int i = 0; i < K; ++i) {
          const V w = S::load(line + i * apart);
          for (int m = 0; m < M; ++m) total[m] += S::all(x[i][m]) * w;
        }
      });
    } else {
      typename S::Pairs x[(K + 1) / 2][M];
      for (int i = 0; i < K; i += 2)
        for (int m = 0; m < M; ++m) x[i / 2][m] = S::all_pairs(rows[m] + k + i, smaller(2, K - i));
      vectors<M, K>(weights, columns, wide, sums, stride, [&](const E* line, ptrdiff_t apart, V* total) {
        for (int i = 0; i < K; i += 2) {
          const auto w = S::make_pairs(line + i * apart, i + 1 < K ? line + (i + 1) * apart : nullptr);
          for (int m = 0; m < M; ++m) total[m] = S::add_pairs(total[m], x[i / 2][m], w);
        }
      });
    }
  }

  // Calls body(line of the weights, numbers from one line to the next, M vectors of sums) for each vector of columns.
  template <int M, int K, class Body>
  static inline void vectors(const E* weights, ptrdiff_t columns, ptrdiff_t wide, T* sums, ptrdiff_t stride,
                             const Body& body) {
    V total[M];
    ptrdiff_t j = 0;
    for (; j + W <= wide; j += W) {
      for (int m = 0; m < M; ++m) total[m] = S::load(sums + m * stride + j);
      body(weights + j, columns, total);
      for (int m = 0; m < M; ++m) S::store(sums + m * stride + j, total[m]);
    }
    if (j == wide) return;
    E line[K * W] = {};
    T own[W] = {};
    for (int i = 0; i < K; ++i) copy(weights + i * columns + j, wide - j, line + i * W);
    for (int m = 0; m < M; ++m) {
      copy(sums + m * stride + j, wide - j, own);
      total[m] = S::load(own);
    }
    body(line, W, total);
    for (int m = 0; m < M; ++m) {
      S::store(own, total[m]);
      copy(own, wide - j, sums + m * stride + j);
    }
  }

  // The elementwise half, for the share's units.
  static void finish(const Problem<T, E>& q, const Share& share) {
    const ptrdiff_t begin = share.panel_begin * W, wide = smaller(share.panel_end * W, q.units) - begin;
    for (ptrdiff_t b = 0; b < q.rows; ++b) {
      const T* row = static_cast<const T*>(q.panels) + b * kSums * q.units;
      Place<T, E> place;
      const bool is_active = Forward<T, E, C>::place(q, 0, b, begin, wide, place);
      for (ptrdiff_t u = begin; is_active && u < begin + wide; u += W) {
        const ptrdiff_t here = smaller(W, q.units - u);
        T sums[kSums * W] = {};
        for (int s = 0; s < kSums; ++s) copy(row + (s < G ? C::gate_of(s) : s) * q.units + u, here, sums + s * W);
        with_vector<G, false>(place, u, here, [&](const Place<T, E>& at) { C::forward(at, sums); });
      }
      if (C::kHasC && q.cs) copy(place.c + begin, wide, q.c_last + b * q.units + begin);
    }
  }
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
