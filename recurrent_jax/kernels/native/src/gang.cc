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

// Sleeps, perhaps, while the word has this value, for so long at most; and wakes all who do.
#if defined(__linux__)
static_assert(sizeof(std::atomic<int>) == sizeof(int));
void sleep_while(std::atomic<int>& word, int value, Clock::duration most) {
  const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(most).count();
  const timespec limit = {static_cast<time_t>(nanoseconds / 1000000000), static_cast<long>(nanoseconds % 1000000000)};
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, &limit, nullptr, 0);
}
void wake_all(std::atomic<int>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, std::numeric_limits<int>::max(), nullptr, nullptr, 0);
}
#else
void sleep_while(std::atomic<int>&, int, Clock::duration) { std::this_thread::yield(); }
void wake_all(std::atomic<int>&) {}
#endif

// Waits until so many helpers have come, or for so many seconds. A helper can lie in the queue of the very core that the
// caller spins on, beside an idle one, for as long as the call lasts; it gets the core when the caller sleeps, and the
// caller, when it is woken, the idle one.
void rendezvous(std::atomic<int>& come, int helpers, double seconds) {
  for (int i = 0; i < kSpins; ++i, pause())
    if (come.load() >= helpers) return;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (int here; (here = come.load()) < helpers;) {
    const auto left = end - Clock::now();
    if (left <= Clock::duration::zero()) return;
    sleep_while(come, here, left);
  }
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
  // Members that yielded to each other could stay on one core for good, beside an idle one, since nobody moves who runs
  // all the time. One that sleeps is woken where there is room, and the others, awake for longer than that takes, are
  // in step with it from then on.
  asleep_.fetch_add(1);
  while (round_.load() == round) sleep_while(round_, round, std::chrono::seconds(1));
  asleep_.fetch_sub(1);
}

void run_gang(const Schedule& schedule, int most, double seconds, const std::function<void(int, Gang&)>& work) {
  auto invitation = std::make_shared<Invitation>();
  invitation->work = &work;
  for (int i = 1; i < most; ++i) {
    schedule([invitation] {
      const int member = invitation->joined.fetch_add(1) + 1;
      wake_all(invitation->joined);
      if (member < 1) return;
      Gang* gang;
      for (Wait wait; !(gang = invitation->gang.load(std::memory_order_acquire)); wait()) {
      }
      (*invitation->work)(member, *gang);
      invitation->working.fetch_sub(1, std::memory_order_acq_rel);
    });
  }
  rendezvous(invitation->joined, most - 1, std::max(kWaking, seconds / 10));
  const int members = invitation->joined.exchange(kClosed) + 1;
  Gang gang(members);
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
    std::atomic<int> come{0}, begun{0}, done{0};
  };
  const auto state = std::make_shared<State>();
  const auto work = [state, count, &task] {
    for (int i; (i = state->begun.fetch_add(1, std::memory_order_relaxed)) < count;) {
      task(i);
      state->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int i = 1; i < most; ++i) {
    schedule([state, work] {
      state->come.fetch_add(1);
      wake_all(state->come);
      work();
    });
  }
  rendezvous(state->come, most - 1, std::min(kWaking, seconds / 10));
  work();
  wait_for(state->done, count);
}

}  // namespace recurrent_jax
