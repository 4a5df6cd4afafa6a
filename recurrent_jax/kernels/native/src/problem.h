// What one call works on, and the functions that each instruction set has for it.
//
// Letters: T steps, B rows of the batch, D input features, H units, G gates. Arrays are contiguous, time first.
#pragma once
#include <cstddef>
#include <cstdint>

#include "gang.h"

namespace recurrent_jax {

enum class Cell { kTanh = 0, kRelu = 1, kLstm = 2, kGru = 3, kPeepholeLstm = 4, kCoupledLstm = 5 };
constexpr int kCells = 6;

template <class T>
struct Problem {
  ptrdiff_t steps, rows, features, units;
  bool reverse;          // the last step first
  const uint8_t* keep;   // [T, B], 0 where a step changes nothing; null: 1 everywhere
  const uint8_t* reset;  // [T, B], 1 where a step begins with the initial carry; null: nowhere

  // Forward: x_t W_x + b + h W_h, the GRU's h W_hn with a bias of its own.
  const T *xs;             // [T, B, D]
  const T *w_x, *w_h;      // [D, G H], [H, G H]
  const T *bias, *bias_n;  // [G H], [H]
  const T* peepholes;      // [3, H], what the LSTM's i, f and o see of c, or null

  const T *h0, *c0;                // [B, H], the carry before the first step
  const T *initial_h, *initial_c;  // [B, H], what a reset restores
  // What the backward pass reads, and then overwrites with gradients of the pre-activations.
  T* gates;    // [T, B, G H], null where nothing is to be saved
  T* extra;    // [T, B, H], of the GRU h W_hn + b_n
  T* hs;       // [T, B, H], the state after each step
  T* cs;       // [T, B, H], the same of the LSTM's c, or null
  T* c_last;   // [B, H], its last one

  // Backward: cotangents.
  const T* d_ys;               // [T, B, H], of the outputs, which are 0 where `keep` is
  const T *d_hs, *d_cs;        // [T, B, H], of the states after each step; null: zeros
  T *dh, *dc;                  // [B, H], of the last carry; then of the first
  T *d_initial_h, *d_initial_c;  // [B, H], of what resets restored

  // The weights' gradients.
  T *d_w_x, *d_w_h;      // [D, G H], [H, G H]
  T *d_bias, *d_bias_n;  // [G H], [H]
  T* d_peepholes;        // [3, H]

  T* panels;  // the weights, packed
};

// A share of the work: some rows, and some panels of units.
struct Share {
  ptrdiff_t row_begin, row_end, panel_begin, panel_end;
};

template <class T>
struct Functions {
  ptrdiff_t (*panels)(ptrdiff_t units, bool backward);
  // Numbers in all panels.
  ptrdiff_t (*packed_size)(ptrdiff_t features, ptrdiff_t units, bool backward);
  // Bytes that a share works in.
  ptrdiff_t (*scratch_size)(const Problem<T>&, const Share&, bool backward);
  // Pack the panels of a share.
  void (*pack_forward)(const Problem<T>&, const Share&);
  void (*pack_backward)(const Problem<T>&, const Share&);
  // Run all steps; `gang` is null where a share depends on no other.
  void (*forward)(const Problem<T>&, const Share&, Gang* gang, char* scratch);
  void (*backward)(const Problem<T>&, const Share&, Gang* gang, char* scratch);
  // The weights' gradients, whose columns are in panels of their own.
  ptrdiff_t (*gradient_panels)(ptrdiff_t units);
  ptrdiff_t (*gradient_scratch_size)(const Problem<T>&);
  void (*gradient)(const Problem<T>&, const Share&, char* scratch);
};

// The functions of one instruction set, by cell.
struct InstructionSet {
  const char* name;
  Functions<float> of_float[kCells];
  Functions<double> of_double[kCells];
};

}  // namespace recurrent_jax
