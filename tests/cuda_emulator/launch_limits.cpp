#include "tests/cuda_emulator/launch_limits.h"

#include <fmt/format.h>

#include <map>
#include <mutex>

#include "quant/base/error.h"

namespace sluice::emulator {
namespace {

/// Of every GPU (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
constexpr uint64_t kMostThreads = 1024;
constexpr unsigned kMostThreadsZ = 64;
constexpr unsigned kMostBlocksX = 0x7FFFFFFF;
constexpr unsigned kMostBlocksYZ = 65535;
constexpr int64_t kSharedUnasked = int64_t{48} << 10;

class AllowedShared {
 public:
  void allow(const void* kernel, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes_[kernel] = bytes;
  }
  int64_t of(const void* kernel) {
    const std::lock_guard lock(mutex_);
    const auto found = bytes_.find(kernel);
    return found == bytes_.end() ? kSharedUnasked : std::max(kSharedUnasked, found->second);
  }

 private:
  std::mutex mutex_;
  std::map<const void*, int64_t> bytes_;
};

AllowedShared& allowed() {
  static AllowedShared all;
  return all;
}

std::string text(const dim3& shape) {
  return fmt::format("{} x {} x {}", shape.x, shape.y, shape.z);
}

}  // namespace

void allow_shared(const void* kernel, int64_t bytes) {
  allowed().allow(kernel, bytes);
}

void check_limits(const void* kernel, const Grid& grid) {
  const dim3& b = grid.block;
  const uint64_t threads = uint64_t{b.x} * b.y * b.z;
  if (threads == 0 || threads > kMostThreads || b.z > kMostThreadsZ) {
    throw Error(grid.name, "blocks of 1 to 1024 threads, 64 along z", text(b));
  }
  const dim3& g = grid.grid;
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > kMostBlocksX || g.y > kMostBlocksYZ || g.z > kMostBlocksYZ) {
    throw Error(grid.name, "a grid of 1 to 2147483647 x 65535 x 65535 blocks", text(g));
  }
  if (const int64_t most = allowed().of(kernel); grid.shared_bytes > most) {
    throw Error(grid.name, fmt::format("at most {} bytes of dynamic shared memory, as were allowed", most),
                std::to_string(grid.shared_bytes));
  }
}

}  // namespace sluice::emulator
