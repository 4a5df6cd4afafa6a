// The elementwise half of each cell, forward and backward, on one vector of units.
//
// `sums` are the vectors of the cell's slots: x W_x + b + h W_h of each gate. Where the n of a GRU needs h W_hn + b_n by
// itself, the slots of x and those of h overlap but for it.
#pragma once
#include "place.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

template <class T, class E, bool kTanh>
struct SimpleCell {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int kGates = 1;
  static constexpr bool kHasC = false, kHasExtra = false, kHasPeepholes = false;
  // The gate of a slot of x.
  static constexpr int gate_of(int slot) { return slot; }
  // Of an h near 1 that was rounded to fewer digits, 1 - h^2 would be far off: the derivative is saved in its place.
  static constexpr bool kSavesDerivative = kTanh && sizeof(E) < sizeof(T);

  static inline void forward(const Place<T, E>& at, const T* sums) {
    const V z = S::load(sums);
    if constexpr (kTanh) {
      const V h = S::tanh(z);
      S::store(at.h, h);
      if constexpr (kSavesDerivative)
        if (at.gates) S::store(at.gates, T(1) - h * h);
    }
    // A NaN stays.
    else S::store(at.h, z < T(0) ? S::all(0) : z);
  }
  static inline void backward(const Place<T, E>& at) {
    const V h = S::load(at.h), dh = S::load(at.dh);
    if constexpr (kSavesDerivative) S::store(at.gates, dh * S::load(at.gates));
    else if constexpr (kTanh) S::store(at.gates, dh * (T(1) - h * h));
    else S::store(at.gates, h > T(0) ? dh : S::all(0));
    S::store(at.dh, S::all(0));
  }
};

// i, f, g, o; where the gates see c, i and f see that before the step, o that after it.
template <class T, class E, bool kPeepholes>
struct LstmCell {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int kGates = 4;
  static constexpr bool kHasC = true, kHasExtra = false, kHasPeepholes = kPeepholes;
  static constexpr int gate_of(int slot) { return slot; }
  // The place of a gate among the peepholes; -1 where it has none.
  static constexpr int peephole(int gate) { return gate == 3 ? 2 : gate == 2 ? -1 : gate; }
  static constexpr bool sees_new_c(int gate) { return gate == 3; }

  static inline void forward(const Place<T, E>& at, const T* sums) {
    const auto z = [&](int gate) { return S::load(sums + gate * S::W); };
    const auto seeing = [&](int gate, V c) {
      if constexpr (kPeepholes) return z(gate) + S::load(at.peepholes + peephole(gate) * at.stride) * c;
      else return z(gate);
    };
    const V c_before = S::load(at.c_before);
    const V i = S::sigmoid(seeing(0, c_before)), f = S::sigmoid(seeing(1, c_before)), g = S::tanh(z(2));
    const V c = S::add_products(f, c_before, i, g);
    const V o = S::sigmoid(seeing(3, c));
    S::store(at.c, c);
    S::store(at.h, o * S::tanh(c));
    if (!at.gates) return;
    S::store(at.gates, i);
    S::store(at.gates + at.stride, f);
    S::store(at.gates + 2 * at.stride, g);
    S::store(at.gates + 3 * at.stride, o);
  }
  static inline void backward(const Place<T, E>& at) {
    const V i = S::load(at.gates), f = S::load(at.gates + at.stride);
    const V g = S::load(at.gates + 2 * at.stride), o = S::load(at.gates + 3 * at.stride);
    const V dh = S::load(at.dh), y = S::tanh(S::load(at.c));
    const V d_o = dh * y * o * (T(1) - o);
    V dc = S::load(at.dc) + dh * o * (T(1) - y * y);
    if constexpr (kPeepholes) dc += d_o * S::load(at.peepholes + 2 * at.stride);
    const V d_i = dc * g * i * (T(1) - i), d_f = dc * S::load(at.c_before) * f * (T(1) - f);
    S::store(at.gates, d_i);
    S::store(at.gates + at.stride, d_f);
    S::store(at.gates + 2 * at.stride, dc * i * (T(1) - g * g));
    S::store(at.gates + 3 * at.stride, d_o);
    V dc_before = dc * f;
    if constexpr (kPeepholes) dc_before += d_i * S::load(at.peepholes) + d_f * S::load(at.peepholes + at.stride);
    S::store(at.dc, dc_before);
    S::store(at.dh, S::all(0));
  }
};

// f, g, o; what f forgets is taken in.
template <class T, class E>
struct CoupledLstmCell {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int kGates = 3;
  static constexpr bool kHasC = true, kHasExtra = false, kHasPeepholes = false;
  static constexpr int gate_of(int slot) { return slot; }

  static inline void forward(const Place<T, E>& at, const T* sums) {
    const auto z = [&](int gate) { return S::load(sums + gate * S::W); };
    const V f = S::sigmoid(z(0)), g = S::tanh(z(1)), o = S::sigmoid(z(2));
    const V c = S::add_products(f, S::load(at.c_before), T(1) - f, g);
    S::store(at.c, c);
    S::store(at.h, o * S::tanh(c));
    if (!at.gates) return;
    S::store(at.gates, f);
    S::store(at.gates + at.stride, g);
    S::store(at.gates + 2 * at.stride, o);
  }
  static inline void backward(const Place<T, E>& at) {
    const V f = S::load(at.gates), g = S::load(at.gates + at.stride), o = S::load(at.gates + 2 * at.stride);
    const V dh = S::load(at.dh), y = S::tanh(S::load(at.c));
    const V dc = S::load(at.dc) + dh * o * (T(1) - y * y);
    S::store(at.gates, dc * (S::load(at.c_before) - g) * f * (T(1) - f));
    S::store(at.gates + at.stride, dc * (T(1) - f) * (T(1) - g * g));
    S::store(at.gates + 2 * at.stride, dh * y * o * (T(1) - o));
    S::store(at.dc, dc * f);
    S::store(at.dh, S::all(0));
  }
};

// r, z, n; "extra" is what the reset gate multiplies, h W_hn + b_n, and then its gradient.
template <class T, class E>
struct GruCell {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int kGates = 3;
  static constexpr bool kHasC = false, kHasExtra = true, kHasPeepholes = false;
  // Slots of x are n, r, z, and those of h, one further, r, z, n.
  static constexpr int gate_of(int slot) { return (slot + 2) % 3; }

  static inline void forward(const Place<T, E>& at, const T* sums) {
    const V r = S::sigmoid(S::load(sums + S::W)), z = S::sigmoid(S::load(sums + 2 * S::W));
    const V within = S::load(sums + 3 * S::W);
    const V n = S::tanh(S::load(sums) + r * within);
    S::store(at.h, S::add_products(z, S::load(at.h_before), T(1) - z, n));
    if (!at.gates) return;
    S::store(at.gates, r);
    S::store(at.gates + at.stride, z);
    S::store(at.gates + 2 * at.stride, n);
    S::store(at.extra, within);
  }
  static inline void backward(const Place<T, E>& at) {
    const V r = S::load(at.gates), z = S::load(at.gates + at.stride), n = S::load(at.gates + 2 * at.stride);
    const V dh = S::load(at.dh);
    const V dn = dh * (T(1) - z) * (T(1) - n * n);
    S::store(at.gates, dn * S::load(at.extra) * r * (T(1) - r));
    S::store(at.gates + at.stride, dh * (S::load(at.h_before) - n) * z * (T(1) - z));
    S::store(at.gates + 2 * at.stride, dn);
    S::store(at.extra, dn * r);
    S::store(at.dh, dh * z);
  }
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
