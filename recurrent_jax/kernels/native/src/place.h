// Where a row of units is, of one step.
#pragma once
#include "memory.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

template <class T, class E>
struct Place {
  E* gates;            // G vectors, `stride` apart, or null
  ptrdiff_t stride;
  E* extra;
  const E* h_before;
  const T* c_before;
  const T* peepholes;  // of i, f and o, `stride` apart, or null
  E* h;
  T* c;
  T *dh, *dc;          // cotangents of h and c in, and out those of h_before and c_before but for the matmul's

  // The place of unit `u`, given that of unit 0.
  Place moved(ptrdiff_t u) const {
    Place at = *this;
    const auto move = [&](auto& pointer) {
      if (pointer) pointer += u;
    };
    move(at.gates), move(at.extra), move(at.h_before), move(at.c_before), move(at.peepholes);
    move(at.h), move(at.c), move(at.dh), move(at.dc);
    return at;
  }
};

// A copy, a vector wide, of a place with fewer units.
template <class T, class E, int kGates>
class Copy {
 public:
  Copy(const Place<T, E>& at, ptrdiff_t wide) : place(at), wide_(wide) {
    const auto take = [&](auto& pointer, auto* own, ptrdiff_t vectors) {
      if (!pointer) return;
      for (ptrdiff_t i = 0; i < vectors; ++i) copy(&pointer[i * at.stride], wide, own + i * W);
      pointer = own;
    };
    take(place.gates, gates_, kGates), take(place.extra, extra_, 1);
    take(place.h_before, h_before_, 1), take(place.c_before, c_before_, 1), take(place.peepholes, peepholes_, 3);
    take(place.h, h_, 1), take(place.c, c_, 1), take(place.dh, dh_, 1), take(place.dc, dc_, 1);
    place.stride = W;
  }
  void put_back(const Place<T, E>& at) const {
    const auto give = [&](const auto* own, auto* to, ptrdiff_t vectors) {
      for (ptrdiff_t i = 0; to && i < vectors; ++i) copy(own + i * W, wide_, to + i * at.stride);
    };
    give(gates_, at.gates, kGates), give(extra_, at.extra, 1);
    give(h_, at.h, 1), give(c_, at.c, 1), give(dh_, at.dh, 1), give(dc_, at.dc, 1);
  }

  Place<T, E> place;

 private:
  static constexpr int W = Simd<T>::W;
  const ptrdiff_t wide_;
  E gates_[kGates * W] = {}, extra_[W] = {}, h_before_[W] = {}, h_[W] = {};
  T c_before_[W] = {}, peepholes_[3 * W] = {}, c_[W] = {}, dh_[W] = {}, dc_[W] = {};
};

// Calls body(place of the vector) for `wide` units from unit `u` on; with `kKeepsState`, h and c are only read.
template <int kGates, bool kKeepsState, class T, class E, class Body>
inline void with_vector(const Place<T, E>& row, ptrdiff_t u, ptrdiff_t wide, const Body& body) {
  Place<T, E> at = row.moved(u);
  if (wide >= Simd<T>::W) return body(at);
  Copy<T, E, kGates> part(at, wide);
  body(part.place);
  if constexpr (kKeepsState) at.h = nullptr, at.c = nullptr;
  part.put_back(at);
}

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
