// Vectors of numbers by the compiler's extension, and sigmoid and tanh of them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bfloat16.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace recurrent_jax {
namespace RJ_SET {

// A number in another type, rounded to the nearest, to even between two.
template <class To, class From>
inline To convert(From x) {
  To result;
  if constexpr (std::is_same_v<To, From>) {
    result = x;
  } else if constexpr (std::is_same_v<From, Bfloat16>) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    std::memcpy(&result, &bits, sizeof(result));
  } else {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    // Rounded up, a NaN could become a number.
    bits = x == x ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000;
    result.bits = static_cast<uint16_t>(bits >> 16);
  }
  return result;
}

// Whether the processor multiplies pairs of such numbers and adds both products.
template <class E>
constexpr bool has_pairs = false;
#if defined(__AVX512BF16__)
template <>
constexpr bool has_pairs<Bfloat16> = true;
#endif

template <class T>
struct Format;
template <>
struct Format<float> {
  using Int = int32_t;
  static constexpr int mantissa = 23, bias = 127;
  // exp of these is a normal number.
  static constexpr float least = -87, most = 88;
  // ln 2 in two parts, of which the first times any exponent is exact.
  static constexpr float ln2_high = 0x1.63p-1f, ln2_low = -0x1.bd0105c610ca8p-13f;
  // (exp(r) - 1 - r) / r^2 for |r| <= ln 2 / 2.
  static constexpr float coefficients[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                           4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
};
template <>
struct Format<double> {
  using Int = int64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double least = -708, most = 709;
  static constexpr double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double coefficients[] = {
      1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0,
      1.0 / 5040.0,       1.0 / 720.0,       1.0 / 120.0,      1.0 / 24.0,      1.0 / 6.0,      0.5};
};

template <class T>
struct Simd {
  static constexpr int W = RJ_BYTES / sizeof(T);
  typedef T V __attribute__((vector_size(RJ_BYTES)));
  typedef typename Format<T>::Int Int;
  typedef Int I __attribute__((vector_size(RJ_BYTES)));

  static inline V load(const T* from) {
    V v;
    std::memcpy(&v, from, sizeof(V));
    return v;
  }
  static inline void store(T* to, V v) { std::memcpy(to, &v, sizeof(V)); }

  // The same of half as many bits.
  typedef uint16_t Halves __attribute__((vector_size(RJ_BYTES / 2)));
  typedef uint32_t Words __attribute__((vector_size(RJ_BYTES)));
  static inline V load(const Bfloat16* from) {
    static_assert(sizeof(T) == sizeof(float));
    Halves halves;
    std::memcpy(&halves, from, sizeof(halves));
    const Words words = __builtin_convertvector(halves, Words) << 16;
    V v;
    std::memcpy(&v, &words, sizeof(V));
    return v;
  }
  static inline void store(Bfloat16* to, V v) {
    static_assert(sizeof(T) == sizeof(float));
    Words bits;
    std::memcpy(&bits, &v, sizeof(V));
    bits = v == v ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000;
    const Halves halves = __builtin_convertvector(bits >> 16, Halves);
    std::memcpy(to, &halves, sizeof(halves));
  }

#if defined(__AVX512BF16__)
  typedef __m512bh Pairs;
  static inline Pairs load_pairs(const Bfloat16* from) {
    Pairs pairs;
    std::memcpy(&pairs, from, sizeof(pairs));
    return pairs;
  }
  // The pair at `from` everywhere; with a single number, a zero beside it.
  static inline Pairs all_pairs(const Bfloat16* from, ptrdiff_t numbers) {
    uint32_t pair = 0;
    std::memcpy(&pair, from, numbers == 2 ? 4 : 2);
    const __m512i pairs = _mm512_set1_epi32(static_cast<int>(pair));
    Pairs all;
    std::memcpy(&all, &pairs, sizeof(all));
    return all;
  }
  // A vector of numbers each beside one of another line; beside zeros where that is null.
  static inline Pairs make_pairs(const Bfloat16* first, const Bfloat16* second) {
    Halves low, high = {};
    std::memcpy(&low, first, sizeof(low));
    if (second) std::memcpy(&high, second, sizeof(high));
    const Words words = __builtin_convertvector(low, Words) | __builtin_convertvector(high, Words) << 16;
    Pairs pairs;
    std::memcpy(&pairs, &words, sizeof(pairs));
    return pairs;
  }
  static inline V add_pairs(V sums, Pairs x, Pairs y) { return (V)_mm512_dpbf16_ps((__m512)sums, x, y); }
#endif
  static inline V all(T x) { return x - V{}; }
  // a b + c d, where c d is rounded by itself. Left alone, a compiler fuses either product with the sum, and not the
  // same one wherever this is inlined.
  static inline V add_products(V a, V b, V c, V d) {
    V product = c * d;
#if defined(__x86_64__)
    asm("" : "+v"(product));
#elif defined(__aarch64__)
    asm("" : "+w"(product));
#endif
    return a * b + product;
  }
  // A NaN is not smaller and not larger, and stays: so do the instructions, but compilers don't know.
  static inline V clamp(V x, T least, T most) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == sizeof(float))
      return (V)_mm512_min_ps((__m512)all(most), _mm512_max_ps((__m512)all(least), (__m512)x));
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == sizeof(float))
      return (V)_mm256_min_ps((__m256)all(most), _mm256_max_ps((__m256)all(least), (__m256)x));
#endif
    x = x < least ? all(least) : x;
    return x > most ? all(most) : x;
  }

  // exp(x) = scale (1 + rest), with rest as exact for small x as for large; x lies between `least` and `most`.
  static inline void exp(V x, V& scale, V& rest) {
    using F = Format<T>;
    // Added to a number so large, the bits behind the point fall away, and the exponent stands in the last ones.
    constexpr T round = T(3) * T(Int(1) << (F::mantissa - 1));
    const V rounded = x * T(1.4426950408889634) + round;
    const V n = rounded - round;
    const V r = (x - n * F::ln2_high) - n * F::ln2_low;
    V sum = all(F::coefficients[0]);
    for (size_t i = 1; i < sizeof(F::coefficients) / sizeof(T); ++i) sum = sum * r + F::coefficients[i];
    rest = sum * r * r + r;
    I bits;
    std::memcpy(&bits, &rounded, sizeof(V));
    bits = (bits + Int(F::bias)) << F::mantissa;
    std::memcpy(&scale, &bits, sizeof(V));
  }

  static inline V sigmoid(V x) {
    V scale, rest;
    exp(clamp(-x, Format<T>::least, Format<T>::most), scale, rest);
    return T(1) / (T(1) + (scale * rest + scale));
  }

  static inline V tanh(V x) {
    V scale, rest;
    // Behind 20 it is 1 to the last bit.
    x = clamp(x, T(-20), T(20));
    exp(x + x, scale, rest);
    const V minus_one = scale * rest + (scale - T(1));
    return minus_one / (minus_one + T(2));
  }
};

}  // namespace RJ_SET
}  // namespace recurrent_jax
