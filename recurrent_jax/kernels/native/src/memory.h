// Pieces of memory, and loops over them.
//
// Nothing of the standard library's templates is used in what is compiled for each instruction set: the linker would
// take one set's copy for all.
#pragma once
#include <cstddef>
#include <cstdint>

#include "simd.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

inline ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

template <class T>
inline void copy(const T* from, ptrdiff_t count, T* to) {
  for (ptrdiff_t i = 0; i < count; ++i) to[i] = from[i];
}

// to += from, of two types perhaps.
template <class E, class T>
inline void add(const E* from, ptrdiff_t count, T* to) {
  for (ptrdiff_t i = 0; i < count; ++i) to[i] += convert<T>(from[i]);
}

template <class T>
inline void zero(ptrdiff_t count, T* to) {
  for (ptrdiff_t i = 0; i < count; ++i) to[i] = T{};
}

// Takes arrays from a piece of memory, one after the other; from a null piece, to see how much they need.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(reinterpret_cast<uintptr_t>(memory)) {}
  template <class T>
  T* take(ptrdiff_t count) {
    T* array = reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return array;
  }
  ptrdiff_t used() const { return used_; }

 private:
  uintptr_t memory_;
  ptrdiff_t used_ = 0;
};

}  // namespace
}  // namespace RJ_SET
}  // namespace recurrent_jax
