// Many callers at once, one pool of helpers, sharing by rows and by units: every result to the last bit that of one
// thread alone, of an LSTM as it is and with peepholes, with masks and resets. `make sanitize` runs this with the thread
// sanitiser, to which Python and XLA would be opaque.
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "instruction_sets.h"
#include "shares.h"

using namespace recurrent_jax;

namespace {

class Pool {
 public:
  explicit Pool(int size) {
    for (int i = 0; i < size; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      done_ = true;
    }
    come_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  Schedule schedule() {
    return [this](std::function<void()> task) {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
      come_.notify_one();
    };
  }

 private:
  void work() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      come_.wait(lock, [this] { return done_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }
  std::mutex mutex_;
  std::condition_variable come_;
  std::deque<std::function<void()>> tasks_;
  bool done_ = false;
  std::vector<std::thread> threads_;
};

// One problem with memory of its own, the same numbers each time.
struct Example {
  Example(Cell cell, ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t units)
      : cell(cell), steps(steps), rows(rows), units(units) {
    fill(xs, steps * rows * kFeatures);
    fill(w_x, kFeatures * 4 * units);
    fill(w_h, units * 4 * units);
    fill(bias, 4 * units);
    fill(peepholes, 3 * units);
    fill(h0, rows * units);
    fill(c0, rows * units);
    fill(initial_h, rows * units);
    fill(initial_c, rows * units);
    // A third of the steps is masked, a fifth is reset.
    for (ptrdiff_t i = 0; i < steps * rows; ++i) keep.push_back(i % 3 != 1), reset.push_back(i % 5 == 3);
    fill(d_ys, steps * rows * units);
    gates.resize(steps * rows * 4 * units);
    hs.resize(steps * rows * units);
    cs.resize(hs.size());
    c_last.resize(rows * units);
    dh.assign(rows * units, 0);
    dc.assign(rows * units, 0);
    d_initial_h.assign(rows * units, 0);
    d_initial_c.assign(rows * units, 0);
    d_w_x.resize(w_x.size());
    d_w_h.resize(w_h.size());
    d_bias.resize(bias.size());
    d_peepholes.resize(peepholes.size());
    d_xs.resize(xs.size());
  }

  void run(const Schedule& schedule, int threads) {
    const Functions<float, float>& code = best_instruction_set().of_float[static_cast<int>(cell)];
    Problem<float, float> q = {};
    q.steps = steps, q.rows = rows, q.features = kFeatures, q.units = units;
    q.xs = xs.data(), q.w_x = w_x.data(), q.w_h = w_h.data(), q.bias = bias.data();
    q.h0 = h0.data(), q.c0 = c0.data(), q.gates = gates.data(), q.hs = hs.data(), q.cs = cs.data();
    q.c_last = c_last.data(), q.d_ys = d_ys.data(), q.dh = dh.data(), q.dc = dc.data();
    q.peepholes = peepholes.data(), q.d_peepholes = d_peepholes.data();
    q.d_w_x = d_w_x.data(), q.d_w_h = d_w_h.data(), q.d_bias = d_bias.data();
    q.d_xs = d_xs.data(), q.keep = keep.data(), q.reset = reset.data();
    q.initial_h = initial_h.data(), q.initial_c = initial_c.data();
    q.d_initial_h = d_initial_h.data(), q.d_initial_c = d_initial_c.data();
    for (const Direction direction : {Direction::kForward, Direction::kBackward, Direction::kInputs}) {
      std::vector<char> panels(code.packed_size(q, direction));
      q.panels = panels.data();
      run_shares(schedule, threads, code, q, direction);
    }
    run_gradient(schedule, threads, code, q);
  }

  bool operator==(const Example& other) const {
    return gates == other.gates && hs == other.hs && dh == other.dh && dc == other.dc && d_w_x == other.d_w_x &&
           d_w_h == other.d_w_h && d_bias == other.d_bias && d_peepholes == other.d_peepholes && d_xs == other.d_xs &&
           d_initial_h == other.d_initial_h && d_initial_c == other.d_initial_c;
  }

  // More than one panel of the gradient of the inputs.
  static constexpr ptrdiff_t kFeatures = 330;
  Cell cell;
  ptrdiff_t steps, rows, units;
  std::vector<float> xs, w_x, w_h, bias, peepholes, h0, c0, d_ys, gates, hs, cs, c_last, dh, dc;
  std::vector<float> initial_h, initial_c, d_initial_h, d_initial_c, d_w_x, d_w_h, d_bias, d_peepholes, d_xs;
  std::vector<uint8_t> keep, reset;

 private:
  // Numbers from -0.2 to 0.2.
  void fill(std::vector<float>& array, ptrdiff_t size) {
    array.resize(size);
    for (float& x : array) {
      state = state * 1664525u + 1013904223u;
      x = static_cast<float>(static_cast<int32_t>(state)) / 1e10f;
    }
  }
  uint32_t state = 1;
};

}  // namespace

int main() {
  // Shared by units, by rows, a single step, and the gradient of the inputs by features; all of it large enough that
  // helpers are waited for until they are awake.
  struct Shape {
    ptrdiff_t steps, rows, units;
  };
  int wrong = 0, all = 0;
  for (const Cell cell : {Cell::kLstm, Cell::kPeepholeLstm}) {
    for (const Shape shape : {Shape{12, 4, 200}, Shape{12, 40, 72}, Shape{1, 4, 530}, Shape{3, 8, 530}}) {
      const Example example(cell, shape.steps, shape.rows, shape.units);
      Example alone = example;
      alone.run([](std::function<void()>) {}, 1);
      Pool pool(3);
      std::vector<std::thread> callers;
      std::vector<Example> examples(20, example);
      for (int caller = 0; caller < 4; ++caller) {
        callers.emplace_back([&, caller] {
          for (size_t i = caller; i < examples.size(); i += 4) examples[i].run(pool.schedule(), 4);
        });
      }
      for (std::thread& caller : callers) caller.join();
      for (const Example& one : examples) wrong += !(one == alone), ++all;
    }
  }
  std::printf("%d of %d results differ from those of one thread\n", wrong, all);
  return wrong != 0;
}
