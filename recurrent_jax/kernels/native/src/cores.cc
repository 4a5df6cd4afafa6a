#include "cores.h"

#include <algorithm>

#if defined(__linux__)
#include <sched.h>
#endif

namespace recurrent_jax {

// Linux wakes a thread on the core of the thread that wakes it more often than one would think, beside an idle core, and
// moves nobody who runs all the time.
void Cores::settle() {
#if defined(__linux__)
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto me = std::this_thread::get_id();
  settled_.erase(std::remove_if(settled_.begin(), settled_.end(), [&](const auto& s) { return s.first == me; }),
                 settled_.end());
  int core = sched_getcpu();
  cpu_set_t allowed;
  const bool taken = std::any_of(settled_.begin(), settled_.end(), [&](const auto& s) { return s.second == core; });
  if (taken && sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    cpu_set_t free = allowed;
    for (const auto& s : settled_) CPU_CLR(s.second, &free);
    if (CPU_COUNT(&free) > 0 && sched_setaffinity(0, sizeof free, &free) == 0) {
      core = sched_getcpu();
      sched_setaffinity(0, sizeof allowed, &allowed);
    }
  }
  settled_.emplace_back(me, core);
#endif
}

}  // namespace recurrent_jax
