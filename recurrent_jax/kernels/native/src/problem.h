// What one call works on, and the functions that each instruction set has for it.
//
// Letters: T steps, B rows of the batch, D input features, H units, G gates. Arrays are contiguous, time first.
#pragma once
#include <cstddef>
#include <cstdint>

#include "bfloat16.h"
#include "gang.h"

namespace recurrent_jax {

enum class Cell { kTanh = 0, kRelu = 1, kLstm = 2, kGru = 3, kPeepholeLstm = 4, kCoupledLstm = 5 };
constexpr int kCells = 6;

// What a call computes.
enum class Direction { kForward = 0, kBackward = 1, kInputs = 2 };

// Sums, gates, c and its gradients are of type T; what is multiplied, and what is saved of it, of type E.
template <class T, class E>
struct Problem {
  ptrdiff_t steps, rows, features, units;
  bool reverse;          // the last step first
  const uint8_t* keep;   // [T, B], 0 where a step changes nothing; null: 1 everywhere
  const uint8_t* reset;  // [T, B], 1 where a step begins with the initial carry; null: nowhere

  // Forward: x_t W_x + b + h W_h, the GRU's h W_hn with a bias of its own.
  const E* xs;             // [T, B, D]
  const E *w_x, *w_h;      // [D, G H], [H, G H]
  const T *bias, *bias_n;  // [G H], [H]
  const T* peepholes;      // [3, H], what the LSTM's i, f and o see of c, or null

  // The carry before the first step, and what a reset restores, [B, H] each.
  const E *h0, *initial_h;
  const T *c0, *initial_c;
  // What the backward pass reads, and then overwrites with gradients of the pre-activations.
  E* gates;   // [T, B, G H], null where nothing is to be saved
  E* extra;   // [T, B, H], of the GRU h W_hn + b_n
  E* hs;      // [T, B, H], the state after each step
  T* cs;      // [T, B, H], the same of the LSTM's c, or null
  T* c_last;  // [B, H], its last one

  // Backward: cotangents.
  const E* d_ys;                 // [T, B, H], of the outputs, which are 0 where `keep` is
  const E* d_hs;                 // [T, B, H], of the states after each step; null: zeros
  const T* d_cs;                 // [T, B, H], the same
  T *dh, *dc;                    // [B, H], of the last carry; then of the first
  T *d_initial_h, *d_initial_c;  // [B, H], of what resets restored

  // Gradients of the inputs and of the weights.
  E* d_xs;               // [T, B, D]
  T *d_w_x, *d_w_h;      // [D, G H], [H, G H]
  T *d_bias, *d_bias_n;  // [G H], [H]
  T* d_peepholes;        // [3, H]

  void* panels;  // the weights, packed, or the sums of a single step
};

// Up to so many rows, a single step reads the weights where they lie.
constexpr ptrdiff_t kSingleRows = 8;
inline bool is_single(ptrdiff_t steps, ptrdiff_t rows) { return steps == 1 && rows <= kSingleRows; }

// A share of the work: every so many rows, and some panels of units.
struct Share {
  ptrdiff_t row_begin, row_end, row_step, panel_begin, panel_end;
  ptrdiff_t rows() const { return (row_end - row_begin + row_step - 1) / row_step; }
};

template <class T, class E>
struct Functions {
  int gates;
  // Panels of the weights; those of inputs are of features.
  ptrdiff_t (*panels)(const Problem<T, E>&, Direction);
  // Bytes of all panels; of the problem, only its shape is known.
  ptrdiff_t (*packed_size)(const Problem<T, E>&, Direction);
  // Bytes that a share works in.
  ptrdiff_t (*scratch_size)(const Problem<T, E>&, const Share&, Direction);
  // Pack the panels of a share.
  void (*pack)(const Problem<T, E>&, const Share&, Direction);
  // Run all steps; `gang` is null where a share depends on no other. For the gradient of inputs a row is one step of
  // one row of the batch.
  void (*run)(const Problem<T, E>&, const Share&, Direction, Gang* gang, char* scratch);
  // A single step of few rows: shares are of vectors of columns for its products, then of units.
  ptrdiff_t (*single_panels)(ptrdiff_t units, bool of_units);
  void (*single_multiply)(const Problem<T, E>&, const Share&);
  void (*single_finish)(const Problem<T, E>&, const Share&);
  // The weights' gradients, whose columns are in panels of their own.
  ptrdiff_t (*gradient_panels)(ptrdiff_t units);
  ptrdiff_t (*gradient_scratch_size)(const Problem<T, E>&);
  void (*gradient)(const Problem<T, E>&, const Share&, char* scratch);
};

// The functions of one instruction set, by cell.
struct InstructionSet {
  const char* name;
  Functions<float, float> of_float[kCells];
  Functions<double, double> of_double[kCells];
  Functions<float, Bfloat16> of_bfloat16[kCells];
};

}  // namespace recurrent_jax
