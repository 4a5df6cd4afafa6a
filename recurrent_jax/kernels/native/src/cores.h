// Where threads run that work on one thing.
#pragma once
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace recurrent_jax {

class Cores {
 public:
  // Gives the calling thread a core that no other thread has from here, if there is one: moves it there once, and leaves
  // it free to run anywhere. Does nothing where the system has no means for it.
  void settle();

 private:
  std::mutex mutex_;
  std::vector<std::pair<std::thread::id, int>> settled_;
};

}  // namespace recurrent_jax
