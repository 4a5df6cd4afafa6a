// The loops over time, compiled once for each instruction set RJ_SET, with vectors of RJ_BYTES and RJ_REGISTERS of
// them.
//
// Weights lie in panels of a few vectors of columns, row after row; a forward panel holds all gates of the same units,
// so that the elementwise half finds them together. A product goes through a panel in blocks that stay in the first
// cache while all rows of the batch pass by. Each sum is taken in the same order whatever the rows and threads beside
// it: results are the same to the last bit however the work is shared.
//
// Nothing of the standard library's templates is used here: the linker would take one instruction set's copy for all.
#include "cells.h"
#include "problem.h"

namespace recurrent_jax {
namespace RJ_SET {
namespace {

// So much of a panel stays in the first cache, beside the rows that pass by.
constexpr ptrdiff_t kBlockBytes = 16 * 1024;
// Rows that pass by one block; their sums stay in the first cache too.
constexpr ptrdiff_t kPassing = 48;

inline ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

template <class T>
inline void copy(const T* from, ptrdiff_t count, T* to) {
  for (ptrdiff_t i = 0; i < count; ++i) to[i] = from[i];
}

template <class T>
inline void add(const T* from, ptrdiff_t count, T* to) {
  for (ptrdiff_t i = 0; i < count; ++i) to[i] += from[i];
}

template <class T>
inline void zero(ptrdiff_t count, T* to) {
  for (ptrdiff_t i = 0; i < count; ++i) to[i] = 0;
}

// Takes arrays from a piece of memory, one after the other; from a null piece, to see how much they need.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(memory) {}
  template <class T>
  T* take(ptrdiff_t count) {
    T* array = reinterpret_cast<T*>(memory_ + used_);
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return array;
  }
  ptrdiff_t used() const { return used_; }

 private:
  char* memory_;
  ptrdiff_t used_ = 0;
};

// Products of rows and panels of N vectors.
//
// Rows are interleaved first: rows of a batch often lie a power of two apart, where the first cache can hold only a few
// of them at a time.
template <class T, int N>
struct Product {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int W = S::W;
  static constexpr ptrdiff_t kWidth = N * W;
  // Accumulators take up what the registers leave beside N vectors.
  static constexpr int kRows = (RJ_REGISTERS - N) / N;
  static constexpr ptrdiff_t kBlock = kBlockBytes / (kWidth * sizeof(T));

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

  // [tile][k][row of the tile] of the first `depth` numbers of each row.
  static void interleave(const T* const* rows, ptrdiff_t count, ptrdiff_t depth, T* out) {
    tiles(count, [&](ptrdiff_t first, int high) {
      T* to = out + first * depth;
      for (int m = 0; m < high; ++m) {
        const T* row = rows[first + m];
        for (ptrdiff_t k = 0; k < depth; ++k) to[k * high + m] = row[k];
      }
    });
  }

  // sums [M][N W] += a [depth][M] panel [depth][N W].
  template <int M>
  static inline void tile(const T* a, ptrdiff_t depth, const T* panel, T* sums) {
    V total[M][N];
    for (int m = 0; m < M; ++m)
      for (int n = 0; n < N; ++n) total[m][n] = S::load(sums + m * kWidth + n * W);
    for (ptrdiff_t k = 0; k < depth; ++k) {
      V b[N];
      for (int n = 0; n < N; ++n) b[n] = S::load(panel + k * kWidth + n * W);
      for (int m = 0; m < M; ++m) {
        const V x = S::all(a[k * M + m]);
        for (int n = 0; n < N; ++n) total[m][n] += x * b[n];
      }
    }
    for (int m = 0; m < M; ++m)
      for (int n = 0; n < N; ++n) S::store(sums + m * kWidth + n * W, total[m][n]);
  }

  template <int M>
  static inline void tile_of(int rows, const T* a, ptrdiff_t depth, const T* panel, T* sums) {
    if (rows == M) return tile<M>(a, depth, panel, sums);
    if constexpr (M > 1) tile_of<M - 1>(rows, a, depth, panel, sums);
  }

  // sums [count][N W] += interleaved rows [count][depth] times panel [depth][N W].
  static void add(const T* interleaved, ptrdiff_t count, ptrdiff_t depth, const T* panel, T* sums) {
    for (ptrdiff_t begin = 0; begin < depth; begin += kBlock) {
      const ptrdiff_t deep = smaller(kBlock, depth - begin);
      tiles(count, [&](ptrdiff_t first, int high) {
        const T* a = interleaved + first * depth + begin * high;
        tile_of<kRows>(high, a, deep, panel + begin * kWidth, sums + first * kWidth);
      });
    }
  }
};

template <class T, class C>
struct Recurrence {
  using S = Simd<T>;
  static constexpr int W = S::W, G = C::kGates;
  // Vectors of units in a panel.
  static constexpr int kForwardUnits = G == 1 ? 4 : 1;
  static constexpr int kBackwardUnits = 4;
  using Forward = Product<T, kForwardUnits * G>;
  using Backward = Product<T, kBackwardUnits>;
  // Panels whose units fill a line of the cache.
  static constexpr ptrdiff_t kLine = 64 / RJ_BYTES / kForwardUnits > 1 ? 64 / RJ_BYTES / kForwardUnits : 1;
  // Inputs of some steps are projected together, so that a panel is read for this many rows at least.
  static constexpr ptrdiff_t kProjected = 32;

  // Units in a panel.
  static constexpr ptrdiff_t width(bool backward) { return (backward ? kBackwardUnits : kForwardUnits) * W; }
  static ptrdiff_t panels(ptrdiff_t units, bool backward) { return (units + width(backward) - 1) / width(backward); }
  // Numbers in a panel.
  static ptrdiff_t panel_size(ptrdiff_t features, ptrdiff_t units, bool backward) {
    return backward ? Backward::kWidth * G * units : Forward::kWidth * (features + units);
  }
  static ptrdiff_t packed_size(ptrdiff_t features, ptrdiff_t units, bool backward) {
    return panels(units, backward) * panel_size(features, units, backward);
  }

  // Panel [k][vector of units][gate][unit] of W [k, gate, unit], for k below D of W_x and then of W_h.
  static void pack_forward(const Problem<T>& q, const Share& share) {
    const ptrdiff_t columns = G * q.units;
    for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) {
      const ptrdiff_t first = p * width(false);
      T* to = q.panels + p * panel_size(q.features, q.units, false);
      for (ptrdiff_t k = 0; k < q.features + q.units; ++k) {
        const T* row = k < q.features ? q.w_x + k * columns : q.w_h + (k - q.features) * columns;
        for (int v = 0; v < kForwardUnits; ++v)
          for (int g = 0; g < G; ++g, to += W) {
            const ptrdiff_t unit = first + v * W, here = smaller(W, q.units - unit);
            if (here == W) {
              S::store(to, S::load(row + g * q.units + unit));
            } else {
              zero(W, to);
              if (here > 0) copy(row + g * q.units + unit, here, to);
            }
          }
      }
    }
  }

  // Panel [k][unit] of W_h [unit, k].
  static void pack_backward(const Problem<T>& q, const Share& share) {
    const ptrdiff_t wide = width(true), depth = G * q.units;
    for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) {
      const ptrdiff_t first = p * wide, here = smaller(wide, q.units - first);
      T* to = q.panels + p * panel_size(q.features, q.units, true);
      // Few k at a time: what is written stays in the first cache until its lines are full.
      for (ptrdiff_t begin = 0; begin < depth; begin += 32) {
        const ptrdiff_t end = smaller(begin + 32, depth);
        for (ptrdiff_t u = 0; u < wide; ++u)
          for (ptrdiff_t k = begin; k < end; ++k) to[k * wide + u] = u < here ? q.w_h[(first + u) * depth + k] : T(0);
      }
    }
  }

  // The place of unit `u`, given that of unit 0.
  static inline Place<T> moved(const Place<T>& row, ptrdiff_t u) {
    Place<T> at = row;
    if (at.z) at.z += u;
    if (at.gates) at.gates += u;
    at.h_before += u;
    at.h += u;
    if (at.dh) at.dh += u;
    if constexpr (C::kHasExtra) {
      if (at.extra) at.extra += u;
      if (at.bias_n) at.bias_n += u;
    }
    if constexpr (C::kHasC) {
      at.c_before += u;
      at.c += u;
      if (at.dc) at.dc += u;
    }
    if constexpr (C::kHasPeepholes) at.peepholes += u;
    return at;
  }

  // A copy, W units wide, of a place with fewer.
  struct Copy {
    T memory[(2 * G + 8 + (C::kHasPeepholes ? 3 : 0)) * W] = {};
    Place<T> place;

    Copy(const Place<T>& at, ptrdiff_t here) : place(at) {
      T* next = memory;
      const auto take = [&](auto& pointer, ptrdiff_t vectors, ptrdiff_t stride) {
        if (!pointer) return;
        for (ptrdiff_t i = 0; i < vectors; ++i) copy<T>(pointer + i * stride, here, next + i * W);
        pointer = next;
        next += vectors * W;
      };
      take(place.z, G, at.z_stride);
      take(place.gates, G, at.stride);
      take(place.extra, 1, 0);
      take(place.h_before, 1, 0);
      take(place.c_before, 1, 0);
      take(place.bias_n, 1, 0);
      take(place.h, 1, 0);
      take(place.c, 1, 0);
      take(place.dh, 1, 0);
      take(place.dc, 1, 0);
      if constexpr (C::kHasPeepholes) take(place.peepholes, 3, at.stride);
      place.z_stride = place.stride = W;
    }
    void put_back(const Place<T>& at, ptrdiff_t here) const {
      const auto give = [&](const T* from, T* to, ptrdiff_t vectors, ptrdiff_t stride) {
        for (ptrdiff_t i = 0; to && i < vectors; ++i) copy(from + i * W, here, to + i * stride);
      };
      give(place.gates, at.gates, G, at.stride);
      give(place.extra, at.extra, 1, 0);
      give(place.h, at.h, 1, 0);
      give(place.c, at.c, 1, 0);
      give(place.dh, at.dh, 1, 0);
      give(place.dc, at.dc, 1, 0);
    }
  };

  // For each chunk of `count` rows and each vector of the share's units calls begin(row, unit, wide, sums) to fill the
  // sums [G][W], adds the product of `interleaved` and the panels behind `skip` numbers, and calls end with the same.
  template <class Begin, class End>
  static inline void multiply(const Problem<T>& q, const Share& share, ptrdiff_t skip, const T* interleaved,
                              ptrdiff_t count, ptrdiff_t depth, T* sums, const Begin& begin, const End& end) {
    constexpr ptrdiff_t kSize = kPassing * Forward::kWidth;
    const auto vectors = [&](ptrdiff_t p, ptrdiff_t panels, ptrdiff_t first, ptrdiff_t here, const auto& body) {
      for (ptrdiff_t i = 0; i < here; ++i)
        for (ptrdiff_t n = 0; n < panels * kForwardUnits; ++n) {
          const ptrdiff_t unit = p * width(false) + n * W, wide = smaller(W, q.units - unit);
          if (wide <= 0) break;
          T* own = sums + n / kForwardUnits * kSize + i * Forward::kWidth + n % kForwardUnits * G * W;
          body(first + i, unit, wide, own);
        }
    };
    for (ptrdiff_t p = share.panel_begin; p < share.panel_end; p += kLine) {
      const ptrdiff_t panels = smaller(kLine, share.panel_end - p);
      for (ptrdiff_t first = 0; first < count; first += kPassing) {
        const ptrdiff_t here = smaller(kPassing, count - first);
        vectors(p, panels, first, here, begin);
        for (ptrdiff_t n = 0; n < panels; ++n) {
          const T* panel = q.panels + (p + n) * panel_size(q.features, q.units, false) + skip;
          Forward::add(interleaved + first * depth, here, depth, panel, sums + n * kSize);
        }
        vectors(p, panels, first, here, end);
      }
    }
  }

  // Interleaves rows in the chunks that `multiply` takes.
  template <class P>
  static void interleave(const T* const* rows, ptrdiff_t count, ptrdiff_t depth, T* out) {
    for (ptrdiff_t first = 0; first < count; first += kPassing)
      P::interleave(rows + first, smaller(kPassing, count - first), depth, out + first * depth);
  }

  // z [row][gate][unit] = b + x W_x, for the units of the share.
  static void project(const Problem<T>& q, const Share& share, const T* x, const Place<T>* rows, ptrdiff_t count,
                      T* sums) {
    multiply(
        q, share, 0, x, count, q.features, sums,
        [&](ptrdiff_t, ptrdiff_t unit, ptrdiff_t wide, T* own) {
          for (int g = 0; g < G; ++g) {
            if (wide == W) S::store(own + g * W, S::load(q.bias + g * q.units + unit));
            else copy(q.bias + g * q.units + unit, wide, own + g * W);
          }
        },
        [&](ptrdiff_t row, ptrdiff_t unit, ptrdiff_t wide, const T* own) {
          T* z = rows[row].z + unit;
          for (int g = 0; g < G; ++g) {
            if (wide == W) S::store(z + g * rows[row].z_stride, S::load(own + g * W));
            else copy(own + g * W, wide, z + g * rows[row].z_stride);
          }
        });
  }

  // The recurrent matmul and the elementwise half of one step, for the units of the share.
  static void advance(const Problem<T>& q, const Share& share, const T* h, const Place<T>* rows, ptrdiff_t count,
                      T* sums) {
    multiply(
        q, share, q.features * Forward::kWidth, h, count, q.units, sums,
        [&](ptrdiff_t, ptrdiff_t, ptrdiff_t, T* own) {
          for (int g = 0; g < G; ++g) S::store(own + g * W, S::all(0));
        },
        [&](ptrdiff_t row, ptrdiff_t unit, ptrdiff_t wide, const T* own) {
          const Place<T> at = moved(rows[row], unit);
          if (wide == W) return C::forward(at, own);
          Copy part(at, wide);
          C::forward(part.place, own);
          part.put_back(at, wide);
        });
  }

  // Units of a share.
  struct Span {
    ptrdiff_t begin, count;
    Span(const Problem<T>& q, const Share& share, bool backward) : begin(share.panel_begin * width(backward)) {
      const ptrdiff_t end = smaller(share.panel_end * width(backward), q.units);
      count = end > begin ? end - begin : 0;
    }
  };

  // What a forward share works in.
  struct ForwardScratch {
    ptrdiff_t together;  // steps whose inputs are projected at once
    Place<T>* places;
    const T** pointers;
    T *interleaved, *sums, *projected;
    ForwardScratch(const Problem<T>& q, const Share& share, Arena& arena) {
      const ptrdiff_t rows = share.row_end - share.row_begin;
      together = rows ? smaller((kProjected + rows - 1) / rows, q.steps) : 1;
      places = arena.take<Place<T>>(together * rows);
      pointers = arena.take<const T*>(together * rows);
      const ptrdiff_t numbers = together * rows * q.features, states = rows * q.units;
      interleaved = arena.take<T>(numbers > states ? numbers : states);
      sums = arena.take<T>(kLine * kPassing * Forward::kWidth);
      projected = q.gates ? nullptr : arena.take<T>(together * rows * G * Span(q, share, false).count);
    }
  };

  static void forward(const Problem<T>& q, const Share& share, Gang* gang, char* memory) {
    const Span own(q, share, false);
    Arena arena(memory);
    const ForwardScratch scratch(q, share, arena);
    const ptrdiff_t together = scratch.together;
    const T** pointers = scratch.pointers;

    for (ptrdiff_t from = 0; from < q.steps; from += together) {
      const ptrdiff_t to = smaller(from + together, q.steps);
      Place<T>* rows = scratch.places;
      ptrdiff_t active = 0;
      for (ptrdiff_t s = from; s < to; ++s) {
        const ptrdiff_t t = q.reverse ? q.steps - 1 - s : s;
        for (ptrdiff_t b = share.row_begin; b < share.row_end; ++b) {
          const ptrdiff_t at = t * q.rows + b;
          if (q.keep && !q.keep[at]) continue;
          Place<T> place = {};
          place.stride = q.units;
          if (q.gates) {
            place.gates = q.gates + at * G * q.units;
            place.z = place.gates;
            place.z_stride = q.units;
          } else {
            // No other units than its own are there.
            place.z = scratch.projected + active * G * own.count - own.begin;
            place.z_stride = own.count;
          }
          pointers[active] = q.xs + at * q.features;
          rows[active++] = place;
        }
      }
      interleave<Forward>(pointers, active, q.features, scratch.interleaved);
      project(q, share, scratch.interleaved, rows, active, scratch.sums);

      for (ptrdiff_t s = from; s < to; ++s) {
        const ptrdiff_t t = q.reverse ? q.steps - 1 - s : s, before = q.reverse ? t + 1 : t - 1;
        active = 0;
        for (ptrdiff_t b = share.row_begin; b < share.row_end; ++b) {
          const ptrdiff_t row = b * q.units, at = t * q.rows * q.units + row, last = before * q.rows * q.units + row;
          const T *h_before = s ? q.hs + last : q.h0 + row, *c_before = nullptr;
          T *h = q.hs + at, *c = nullptr;
          if constexpr (C::kHasC) {
            c_before = !s ? q.c0 + row : q.cs ? q.cs + last : q.c_last + row;
            c = q.cs ? q.cs + at : q.c_last + row;
          }
          if (q.keep && !q.keep[t * q.rows + b]) {
            copy(h_before + own.begin, own.count, h + own.begin);
            if (C::kHasC && c != c_before) copy(c_before + own.begin, own.count, c + own.begin);
            continue;
          }
          if (q.reset && q.reset[t * q.rows + b]) {
            h_before = q.initial_h + row;
            if constexpr (C::kHasC) c_before = q.initial_c + row;
          }
          pointers[active] = h_before;
          Place<T>& place = rows[active++];
          place.h_before = h_before;
          place.c_before = c_before;
          place.h = h;
          place.c = c;
          if constexpr (C::kHasExtra) {
            place.extra = q.gates ? q.extra + at : nullptr;
            place.bias_n = q.bias_n;
          }
          if constexpr (C::kHasPeepholes) place.peepholes = q.peepholes;
        }
        interleave<Forward>(pointers, active, q.units, scratch.interleaved);
        advance(q, share, scratch.interleaved, rows, active, scratch.sums);
        rows += active;
        if (gang) gang->barrier();
      }
    }
    if (C::kHasC && q.cs)
      for (ptrdiff_t b = share.row_begin; q.steps && b < share.row_end; ++b) {
        const ptrdiff_t row = b * q.units + own.begin, t = q.reverse ? 0 : q.steps - 1;
        copy(q.cs + t * q.rows * q.units + row, own.count, q.c_last + row);
      }
  }

  // What a backward share works in.
  struct BackwardScratch {
    const T **gates, **extras;
    T **targets, *interleaved, *sums;
    BackwardScratch(const Problem<T>& q, const Share& share, Arena& arena) {
      const ptrdiff_t rows = share.row_end - share.row_begin;
      gates = arena.take<const T*>(rows);
      extras = arena.take<const T*>(rows);
      targets = arena.take<T*>(rows);
      interleaved = arena.take<T>(G * rows * q.units);
      sums = arena.take<T>(kPassing * Backward::kWidth);
    }
  };

  static void backward(const Problem<T>& q, const Share& share, Gang* gang, char* memory) {
    const Span own(q, share, true);
    const ptrdiff_t begin = own.begin, count = own.count, end = begin + count;
    Arena arena(memory);
    const BackwardScratch scratch(q, share, arena);

    for (ptrdiff_t s = q.steps - 1; s >= 0; --s) {
      const ptrdiff_t t = q.reverse ? q.steps - 1 - s : s, before = q.reverse ? t + 1 : t - 1;
      ptrdiff_t active = 0;
      for (ptrdiff_t b = share.row_begin; b < share.row_end; ++b) {
        const ptrdiff_t row = b * q.units, at = t * q.rows * q.units + row, last = before * q.rows * q.units + row;
        const bool is_reset = q.reset && q.reset[t * q.rows + b];
        Place<T> place = {};
        place.stride = q.units;
        place.gates = q.gates + at * G;
        place.h_before = is_reset ? q.initial_h + row : s ? q.hs + last : q.h0 + row;
        place.h = q.hs + at;
        place.dh = q.dh + row;
        if constexpr (C::kHasExtra) place.extra = q.extra + at;
        if constexpr (C::kHasPeepholes) place.peepholes = q.peepholes;
        if constexpr (C::kHasC) {
          place.c_before = is_reset ? q.initial_c + row : s ? q.cs + last : q.c0 + row;
          place.c = q.cs + at;
          place.dc = q.dc + row;
          if (q.d_cs) add(q.d_cs + at + begin, count, place.dc + begin);
        }
        if (q.d_hs) add(q.d_hs + at + begin, count, place.dh + begin);
        if (q.keep && !q.keep[t * q.rows + b]) {
          for (int g = 0; g < G; ++g) zero(count, place.gates + g * q.units + begin);
          if constexpr (C::kHasExtra) zero(count, place.extra + begin);
          continue;
        }
        add(q.d_ys + at + begin, count, place.dh + begin);
        for (ptrdiff_t u = begin; u < end; u += W) {
          const Place<T> here = moved(place, u);
          if (u + W <= end) {
            C::backward(here);
          } else {
            Copy part(here, end - u);
            C::backward(part.place);
            part.put_back(here, end - u);
          }
        }
        scratch.gates[active] = place.gates;
        scratch.extras[active] = place.extra;
        scratch.targets[active++] = place.dh;
      }
      if (gang) gang->barrier();
      // Of the GRU's n, what is recurrent goes through the reset gate.
      const ptrdiff_t depth = (C::kHasExtra ? G - 1 : G) * q.units;
      interleave<Backward>(scratch.gates, active, depth, scratch.interleaved);
      if constexpr (C::kHasExtra) {
        interleave<Backward>(scratch.extras, active, q.units, scratch.interleaved + active * depth);
      }
      retreat(q, share, scratch.interleaved, scratch.targets, active, scratch.sums);
      if (!q.reset) continue;
      for (ptrdiff_t b = share.row_begin; b < share.row_end; ++b) {
        if (!q.reset[t * q.rows + b] || (q.keep && !q.keep[t * q.rows + b])) continue;
        const ptrdiff_t at = b * q.units + begin;
        add(q.dh + at, count, q.d_initial_h + at);
        zero(count, q.dh + at);
        if constexpr (C::kHasC) {
          add(q.dc + at, count, q.d_initial_c + at);
          zero(count, q.dc + at);
        }
      }
    }
  }

  static ptrdiff_t scratch_size(const Problem<T>& q, const Share& share, bool is_backward) {
    Arena arena(nullptr);
    if (is_backward) BackwardScratch(q, share, arena);
    else ForwardScratch(q, share, arena);
    return arena.used();
  }

  // dh += d_gates W_h^T of one step, for the units of the share.
  static void retreat(const Problem<T>& q, const Share& share, const T* d_gates, T* const* targets, ptrdiff_t count,
                      T* sums) {
    const ptrdiff_t depth = (C::kHasExtra ? G - 1 : G) * q.units;
    for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) {
      const T* panel = q.panels + p * panel_size(q.features, q.units, true);
      const ptrdiff_t unit = p * width(true), wide = smaller(width(true), q.units - unit);
      for (ptrdiff_t first = 0; first < count; first += kPassing) {
        const ptrdiff_t here = smaller(kPassing, count - first);
        zero(here * Backward::kWidth, sums);
        Backward::add(d_gates + first * depth, here, depth, panel, sums);
        if constexpr (C::kHasExtra) {
          const T* d_extra = d_gates + count * depth + first * q.units;
          Backward::add(d_extra, here, q.units, panel + depth * Backward::kWidth, sums);
        }
        for (ptrdiff_t i = 0; i < here; ++i) add(sums + i * Backward::kWidth, wide, targets[first + i] + unit);
      }
    }
  }

  // Steps and rows whose products are added to a gradient at once.
  static constexpr ptrdiff_t kSummed = 192;

  // What a share of the weights' gradients works in.
  struct GradientScratch {
    const T **left, **gates, **extras, **cs_before, **cs;
    T *interleaved, *panel;
    GradientScratch(const Problem<T>& q, Arena& arena) {
      left = arena.take<const T*>(kSummed);
      gates = arena.take<const T*>(kSummed);
      extras = arena.take<const T*>(kSummed);
      cs_before = arena.take<const T*>(C::kHasPeepholes ? kSummed : 0);
      cs = arena.take<const T*>(C::kHasPeepholes ? kSummed : 0);
      interleaved = arena.take<T>(kSummed * (q.features > q.units ? q.features : q.units));
      panel = arena.take<T>(kSummed * Backward::kWidth);
    }
  };
  static ptrdiff_t gradient_scratch_size(const Problem<T>& q) {
    Arena arena(nullptr);
    GradientScratch(q, arena);
    return arena.used();
  }
  // Panels are of one gate each, so that they lie within a row of what they come from.
  static ptrdiff_t gradient_panels(ptrdiff_t units) { return G * panels(units, true); }

  // d_W_x = xs^T d_gates, d_W_h = h_before^T d_gates, their biases and the peepholes, for the columns of the share.
  static void gradient(const Problem<T>& q, const Share& share, char* memory) {
    Arena arena(memory);
    const GradientScratch scratch(q, arena);
    const ptrdiff_t all = q.steps * q.rows;
    bool first = true;
    // At least once, so that there is a zero where there is no step.
    for (ptrdiff_t at = 0; at < all || first;) {
      for (const bool is_recurrent : {false, true}) {
        ptrdiff_t count = 0, next = at;
        for (; next < all && count < kSummed; ++next) {
          if (q.keep && !q.keep[next]) continue;
          const ptrdiff_t t = next / q.rows, row = next % q.rows * q.units, step = q.rows * q.units;
          scratch.gates[count] = q.gates + next * G * q.units;
          if constexpr (C::kHasExtra) scratch.extras[count] = q.extra + next * q.units;
          const bool is_first = t == (q.reverse ? q.steps - 1 : 0);
          const auto before = [&](const T* initial, const T* first, const T* all) {
            return q.reset && q.reset[next] ? initial + row
                   : is_first               ? first + row
                                            : all + (q.reverse ? t + 1 : t - 1) * step + row;
          };
          if constexpr (C::kHasPeepholes) {
            scratch.cs_before[count] = before(q.initial_c, q.c0, q.cs);
            scratch.cs[count] = q.cs + next * q.units;
          }
          scratch.left[count++] = is_recurrent ? before(q.initial_h, q.h0, q.hs) : q.xs + next * q.features;
        }
        accumulate(q, share, scratch, is_recurrent, count, first);
        if (is_recurrent) at = next;
      }
      first = false;
    }
  }

  // Copies `wide` numbers into a row of a panel, and zeros behind them.
  static inline void copy_row(const T* from, ptrdiff_t wide, T* to) {
    if (wide == Backward::kWidth) return copy<T>(from, Backward::kWidth, to);
    copy(from, wide, to);
    zero(Backward::kWidth - wide, to + wide);
  }

  // Adds the products of `count` steps and rows to one of the two gradients, or begins it with them.
  static void accumulate(const Problem<T>& q, const Share& share, const GradientScratch& scratch, bool is_recurrent,
                         ptrdiff_t count, bool is_first) {
    const ptrdiff_t depth = is_recurrent ? q.units : q.features, each = panels(q.units, true);
    // [tile][step and row][row of the tile], of the columns of what stands at the left.
    Backward::tiles(depth, [&](ptrdiff_t k, int high) {
      T* to = scratch.interleaved + k * count;
      for (ptrdiff_t r = 0; r < count; ++r)
        for (int m = 0; m < high; ++m) to[r * high + m] = scratch.left[r][k + m];
    });
    for (ptrdiff_t p = share.panel_begin; p < share.panel_end; ++p) {
      const ptrdiff_t gate = p / each, unit = p % each * Backward::kWidth;
      const ptrdiff_t wide = smaller(Backward::kWidth, q.units - unit);
      const bool is_extra = C::kHasExtra && is_recurrent && gate == G - 1;
      T sums[Backward::kWidth] = {};
      for (ptrdiff_t r = 0; r < count; ++r) {
        const T* from = is_extra ? scratch.extras[r] + unit : scratch.gates[r] + gate * q.units + unit;
        T* to = scratch.panel + r * Backward::kWidth;
        copy_row(from, wide, to);
        add<T>(to, Backward::kWidth, sums);
      }
      T* bias = is_extra ? q.d_bias_n + unit : is_recurrent ? nullptr : q.d_bias + gate * q.units + unit;
      if (bias && is_first) zero(wide, bias);
      if (bias) add(sums, wide, bias);
      if constexpr (C::kHasPeepholes) {
        if (is_recurrent && C::peephole(gate) >= 0) {
          const T* const* seen = C::sees_new_c(gate) ? scratch.cs : scratch.cs_before;
          accumulate_peephole(scratch.panel, seen, count, unit, wide, is_first,
                              q.d_peepholes + C::peephole(gate) * q.units + unit);
        }
      }
      T* target = (is_recurrent ? q.d_w_h : q.d_w_x) + gate * q.units + unit;
      Backward::tiles(depth, [&](ptrdiff_t k, int high) {
        T tile[Backward::kRows * Backward::kWidth];
        for (int m = 0; m < high; ++m) {
          T* own = tile + m * Backward::kWidth;
          if (is_first) zero(Backward::kWidth, own);
          else copy_row(target + (k + m) * G * q.units, wide, own);
        }
        Backward::template tile_of<Backward::kRows>(high, scratch.interleaved + k * count, count, scratch.panel, tile);
        for (int m = 0; m < high; ++m) copy(tile + m * Backward::kWidth, wide, target + (k + m) * G * q.units);
      });
    }
  }

  // Adds to the gradient of a peephole what `count` steps and rows have: that of the gate, times the c that it sees.
  static void accumulate_peephole(const T* d_gate, const T* const* seen, ptrdiff_t count, ptrdiff_t unit,
                                  ptrdiff_t wide, bool is_first, T* target) {
    T sums[Backward::kWidth] = {};
    for (ptrdiff_t r = 0; r < count; ++r)
      for (ptrdiff_t u = 0; u < wide; ++u) sums[u] += d_gate[r * Backward::kWidth + u] * seen[r][unit + u];
    if (is_first) zero(wide, target);
    add(sums, wide, target);
  }

  static constexpr Functions<T> functions() {
    return {panels,   packed_size, scratch_size,    pack_forward,          pack_backward,
            forward, backward,    gradient_panels, gradient_scratch_size, gradient};
  }
};

#define RJ_CELLS(T)                                                                                    \
  {                                                                                                    \
    Recurrence<T, SimpleCell<T, true>>::functions(), Recurrence<T, SimpleCell<T, false>>::functions(), \
        Recurrence<T, LstmCell<T, false>>::functions(), Recurrence<T, GruCell<T>>::functions(),        \
        Recurrence<T, LstmCell<T, true>>::functions(), Recurrence<T, CoupledLstmCell<T>>::functions()  \
  }
#define RJ_STRING_(x) #x
#define RJ_STRING(x) RJ_STRING_(x)

}  // namespace

extern const InstructionSet instruction_set;
const InstructionSet instruction_set = {RJ_STRING(RJ_SET), RJ_CELLS(float), RJ_CELLS(double)};

}  // namespace RJ_SET
}  // namespace recurrent_jax
