// How the work of one call is shared out.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>

#include "gang.h"
#include "problem.h"

namespace recurrent_jax {

// From so many rows a member on, each has rows of its own and waits for nobody; of weights that are larger than a
// core's second cache, and so are read from farther away at each step, it takes more rows.
constexpr ptrdiff_t kRowsEach = 8, kRowsEachOfLarge = 32;
constexpr ptrdiff_t kLarge = 1 << 20;
// Below so many multiplications in all, one thread is done before another has come.
constexpr double kWorthHelp = 200e3;
// So many multiplications of a step take about as long as it takes two threads to meet.
constexpr double kWorthMeeting = 10e3;
// Multiplications that one thread does in a second, about.
constexpr double kRate = 50e9;

using Scratch = std::unique_ptr<char, decltype(&std::free)>;

// Null where there is no memory.
inline Scratch allocate(ptrdiff_t bytes) {
  return Scratch(static_cast<char*>(std::aligned_alloc(64, (bytes + 64) / 64 * 64)), std::free);
}

// A single step of few rows.
template <class T, class E>
void run_single(const Schedule& schedule, int threads, const Functions<T, E>& code, const Problem<T, E>& q) {
  const double work = static_cast<double>(q.rows) * q.units * (q.units + q.features);
  run_gang(schedule, work < kWorthHelp ? 1 : threads, work * code.gates / kRate, [&](int member, Gang& gang) {
    const auto share = [&](bool of_units) {
      const ptrdiff_t panels = code.single_panels(q.units, of_units);
      return Share{0, q.rows, 1, panels * member / gang.size(), panels * (member + 1) / gang.size()};
    };
    code.single_multiply(q, share(false));
    gang.barrier();
    code.single_finish(q, share(true));
  });
}

// Each member packs some of the weights, then runs every so many rows: batches are often sorted by length.
template <class T, class E>
bool run_by_rows(const Schedule& schedule, int members, double seconds, const Functions<T, E>& code,
                 const Problem<T, E>& q, Direction direction, ptrdiff_t panels, ptrdiff_t rows) {
  std::atomic<int> packed{0};
  std::atomic<bool> out_of_memory{false};
  run_tasks(schedule, members, 2 * members, seconds, [&](int task) {
    if (task < members) {
      code.pack(q, {0, rows, 1, panels * task / members, panels * (task + 1) / members}, direction);
      packed.fetch_add(1, std::memory_order_release);
      return;
    }
    wait_for(packed, members);
    const Share own = {task - members, rows, members, 0, panels};
    const Scratch scratch = allocate(code.scratch_size(q, own, direction));
    if (!scratch) out_of_memory = true;
    else code.run(q, own, direction, nullptr, scratch.get());
  });
  return !out_of_memory;
}

// Packs the weights and runs all steps, on at most `threads` threads; false: there was no memory.
template <class T, class E>
bool run_shares(const Schedule& schedule, int threads, const Functions<T, E>& code, const Problem<T, E>& q,
                Direction direction) {
  if (!q.rows || !q.steps) return true;
  if (direction == Direction::kForward && is_single(q.steps, q.rows)) {
    run_single(schedule, threads, code, q);
    return true;
  }
  const bool of_inputs = direction == Direction::kInputs;
  const ptrdiff_t panels = code.panels(q, direction), rows = of_inputs ? q.steps * q.rows : q.rows;
  const double work = static_cast<double>(q.steps) * q.rows * q.units * (of_inputs ? q.features : q.units);
  const ptrdiff_t rows_each = code.packed_size(q, direction) > kLarge ? kRowsEachOfLarge : kRowsEach;
  const double seconds = work * code.gates / kRate;
  const int all = work < kWorthHelp ? 1 : threads;
  if (rows >= rows_each * all) return run_by_rows(schedule, all, seconds, code, q, direction, panels, rows);

  // Members meet once a step: each has units of its own, and enough of them to be worth it.
  const double step = static_cast<double>(rows) * q.units * (of_inputs ? q.features : q.units) * code.gates;
  const ptrdiff_t worth = of_inputs ? panels : std::min(panels, 1 + static_cast<ptrdiff_t>(step / kWorthMeeting));
  const int members = static_cast<int>(std::min<ptrdiff_t>(all, worth));

  std::atomic<bool> out_of_memory{false};
  run_gang(schedule, members, seconds, [&](int member, Gang& gang) {
    const auto part = [&](int i) { return panels * i / gang.size(); };
    const Share own = {0, rows, 1, part(member), part(member + 1)};
    const Scratch scratch = allocate(code.scratch_size(q, own, direction));
    if (!scratch) out_of_memory = true;
    code.pack(q, own, direction);
    gang.barrier();
    if (!out_of_memory) code.run(q, own, direction, gang.size() == 1 ? nullptr : &gang, scratch.get());
  });
  return !out_of_memory;
}

// The weights' gradients, each member some columns of them.
template <class T, class E>
bool run_gradient(const Schedule& schedule, int threads, const Functions<T, E>& code, const Problem<T, E>& q) {
  const ptrdiff_t panels = code.gradient_panels(q.units);
  const double work = static_cast<double>(q.steps) * q.rows * q.units * (q.features + q.units);
  const int members = work < kWorthHelp ? 1 : threads;
  std::atomic<bool> out_of_memory{false};
  run_tasks(schedule, members, members, work * code.gates / kRate, [&](int task) {
    const Scratch scratch = allocate(code.gradient_scratch_size(q));
    if (!scratch) out_of_memory = true;
    else code.gradient(q, {0, q.rows, 1, panels * task / members, panels * (task + 1) / members}, scratch.get());
  });
  return !out_of_memory;
}

}  // namespace recurrent_jax
