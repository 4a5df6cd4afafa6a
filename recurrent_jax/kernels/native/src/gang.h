// Threads that are all running, so that they may wait for each other.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

#include "cores.h"

namespace recurrent_jax {

class Gang {
 public:
  Gang(int size, Cores& cores) : size_(size), cores_(cores) {}
  int size() const { return size_; }
  // Returns once every member has come here as often as the caller.
  void barrier();

 private:
  const int size_;
  Cores& cores_;
  alignas(64) std::atomic<int> arrived_{0};
  // How often all have come.
  alignas(64) std::atomic<int> round_{0};
  std::atomic<int> asleep_{0};
};

// Hands a task to another thread, now or later.
using Schedule = std::function<void(std::function<void()>)>;

// Runs work(member, gang) on the caller, as member 0, and on at most `most - 1` helpers: those that come within a tenth
// of the `seconds` that one thread would take, or while a thread wakes up where that is longer, but not longer than
// those seconds. A pool that is busy, or that never runs a task, costs that time, and nothing waits for it.
void run_gang(const Schedule& schedule, int most, double seconds, const std::function<void(int, Gang&)>& work);

// Runs task(0) .. task(count - 1), begun in this order, on the caller and on at most `most - 1` helpers, whenever they
// come: the caller waits for them a moment, a tenth of the `seconds` that one thread would take at most, before it
// begins, and at the end only for tasks that are under way.
void run_tasks(const Schedule& schedule, int most, int count, double seconds, const std::function<void(int)>& task);

// Returns once the number is reached, by threads that are at work on it.
void wait_for(const std::atomic<int>& number, int reached);

}  // namespace recurrent_jax
