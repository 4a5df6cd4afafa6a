#include "gang.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace recurrent_jax {
namespace {

constexpr int kSpins = 1000;
constexpr auto kAwake = std::chrono::microseconds(500);

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

using Clock = std::chrono::steady_clock;

// Sleeps, perhaps, while the word has this value; and wakes all who do.
#if defined(__linux__)
static_assert(sizeof(std::atomic<int>) == sizeof(int));
void sleep_while(std::atomic<int>& word, int value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void wake_all(std::atomic<int>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, std::numeric_limits<int>::max(), nullptr, nullptr, 0);
}
#else
void sleep_while(std::atomic<int>&, int) { std::this_thread::yield(); }
void wake_all(std::atomic<int>&) {}
#endif

// Waits until so many helpers have come, or for so many seconds. A helper may lie in the queue of the caller's core: it is
// let run there, and moves away.
void rendezvous(const std::atomic<int>& come, int helpers, double seconds) {
  for (int i = 0; i < kSpins; ++i, pause())
    if (come.load(std::memory_order_acquire) >= helpers) return;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  while (come.load(std::memory_order_acquire) < helpers && Clock::now() < end) std::this_thread::yield();
}

// Spins for a while, then lets other threads run: there may be fewer cores than members.
class Wait {
 public:
  void operator()() {
    if (++count_ > 4 * kSpins) return std::this_thread::yield();
    pause();
  }

 private:
  int count_ = 0;
};

constexpr int kClosed = -(1 << 30);
// A helper needs so long to wake up.
constexpr double kWaking = 100e-6;

// Lives as long as the last task that knows it, which may run long after the call has returned.
struct Invitation {
  Cores cores;
  std::atomic<int> joined{0};
  std::atomic<Gang*> gang{nullptr};
  std::atomic<int> working{0};
  const std::function<void(int, Gang&)>* work;
};

}  // namespace

void Gang::barrier() {
  const int round = round_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.fetch_add(1);
    if (asleep_.load()) wake_all(round_);
    return;
  }
  const auto spin = [&] {
    for (int i = 0; i < kSpins; ++i, pause())
      if (round_.load(std::memory_order_acquire) != round) return true;
    return false;
  };
  if (spin()) return;
  for (const auto end = Clock::now() + kAwake; Clock::now() < end;)
    if (spin()) return;
  // There may be fewer cores than members. Where there are enough, the others are awake for longer than it takes to wake
  // and settle this one, and in step with it from then on.
  asleep_.fetch_add(1);
  while (round_.load() == round) sleep_while(round_, round);
  asleep_.fetch_sub(1);
  cores_.settle();
}

void run_gang(const Schedule& schedule, int most, double seconds, const std::function<void(int, Gang&)>& work) {
  auto invitation = std::make_shared<Invitation>();
  invitation->work = &work;
  invitation->cores.settle();
  for (int i = 1; i < most; ++i) {
    schedule([invitation] {
      invitation->cores.settle();
      const int member = invitation->joined.fetch_add(1, std::memory_order_acq_rel) + 1;
      if (member < 1) return;
      Gang* gang;
      for (Wait wait; !(gang = invitation->gang.load(std::memory_order_acquire)); wait()) {
      }
      (*invitation->work)(member, *gang);
      invitation->working.fetch_sub(1, std::memory_order_acq_rel);
    });
  }
  rendezvous(invitation->joined, most - 1, std::min(seconds, std::max(kWaking, seconds / 10)));
  const int members = invitation->joined.exchange(kClosed) + 1;
  Gang gang(members, invitation->cores);
  invitation->working.store(members - 1);
  invitation->gang.store(&gang, std::memory_order_release);
  work(0, gang);
  for (Wait wait; invitation->working.load(std::memory_order_acquire) > 0; wait()) {
  }
}

void wait_for(const std::atomic<int>& number, int reached) {
  for (Wait wait; number.load(std::memory_order_acquire) < reached; wait()) {
  }
}

void run_tasks(const Schedule& schedule, int most, int count, double seconds, const std::function<void(int)>& task) {
  // Outlives the call where a helper comes late; it finds no task then.
  struct State {
    Cores cores;
    std::atomic<int> come{0}, begun{0}, done{0};
  };
  const auto state = std::make_shared<State>();
  const auto work = [state, count, &task] {
    for (int i; (i = state->begun.fetch_add(1, std::memory_order_relaxed)) < count;) {
      task(i);
      state->done.fetch_add(1, std::memory_order_release);
    }
  };
  state->cores.settle();
  for (int i = 1; i < most; ++i) {
    schedule([state, work] {
      state->cores.settle();
      state->come.fetch_add(1, std::memory_order_release);
      work();
    });
  }
  rendezvous(state->come, most - 1, std::min(kWaking, seconds / 10));
  work();
  wait_for(state->done, count);
}

}  // namespace recurrent_jax
