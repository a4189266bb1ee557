#include "kernels_cuda/base/memory_count.h"

namespace sluice::cuda {

bool MemoryCount::take(int64_t bytes) {
  int64_t before = taken_.load();
  do {
    if (bytes > limit_.load() - before) {
      return false;
    }
  } while (!taken_.compare_exchange_weak(before, before + bytes));
  return true;
}

MemoryCount& device_memory_count() {
  static MemoryCount count;
  return count;
}

}  // namespace sluice::cuda
