#include "gang.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace recurrent_jax {
namespace {

// Spins for a while, then lets other threads run: there may be fewer cores than members.
class Wait {
 public:
  void operator()() {
    if (++count_ > 4000) return std::this_thread::yield();
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
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
  const int64_t mine = arrived_.fetch_add(1, std::memory_order_acq_rel);
  const int64_t all = (mine / size_ + 1) * size_;
  for (Wait wait; arrived_.load(std::memory_order_acquire) < all; wait()) {
  }
}

void run_gang(const Schedule& schedule, int most, double seconds, const std::function<void(int, Gang&)>& work) {
  auto invitation = std::make_shared<Invitation>();
  invitation->work = &work;
  for (int i = 1; i < most; ++i) {
    schedule([invitation] {
      const int member = invitation->joined.fetch_add(1) + 1;
      if (member < 1) return;
      Gang* gang;
      for (Wait wait; !(gang = invitation->gang.load(std::memory_order_acquire)); wait()) {
      }
      (*invitation->work)(member, *gang);
      invitation->working.fetch_sub(1, std::memory_order_acq_rel);
    });
  }
  const std::chrono::duration<double> patience(std::max(kWaking, seconds / 10));
  const auto end = std::chrono::steady_clock::now() + patience;
  for (Wait wait; invitation->joined.load() < most - 1 && std::chrono::steady_clock::now() < end; wait()) {
  }
  const int members = invitation->joined.exchange(kClosed) + 1;
  Gang gang(members);
  invitation->working.store(members - 1);
  invitation->gang.store(&gang, std::memory_order_release);
  work(0, gang);
  for (Wait wait; invitation->working.load(std::memory_order_acquire) > 0; wait()) {
  }
}

}  // namespace recurrent_jax
