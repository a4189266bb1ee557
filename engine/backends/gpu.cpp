#include "engine/backends/gpu.h"

#include <fmt/format.h>

#include <algorithm>

#include "quant/base/error.h"

namespace sluice {

Device chosen_device(Device wish) {
  if (wish == Device::kCpu) {
    return Device::kCpu;
  }
  const GpuFound gpu = find_gpu();
  if (!gpu.usable && wish == Device::kGpu) {
    throw Error("-ngl/--n-gpu-layers", "a GPU to compute on, or 0 for the CPU", gpu.why_not);
  }
  return gpu.usable ? Device::kGpu : Device::kCpu;
}

std::string page_lock_notice(const PageLock& lock) {
  if (lock.problem.empty()) {
    return {};
  }
  const auto gigabytes = [](int64_t bytes) { return static_cast<double>(bytes) / 1e9; };
  return fmt::format(
      "{:.1f} of {:.1f} GB of experts are page-locked, the others reach the GPU through a buffer, which "
      "makes "
      "long prompts slower ({}): a higher limit of locked memory (ulimit -l) or more free memory helps, "
      "--prefill cpu copies no experts.",
      gigabytes(lock.locked_bytes), gigabytes(lock.bytes), lock.problem);
}

// Rows that the CPU gets beside a stream are few: its experts are those that few tokens chose.
int64_t most_cpu_tokens(const RuntimeOptions& options) {
  constexpr int64_t kMostShared = 4096;
  if (options.first_gpu_layer > 0) {
    return options.max_batch;
  }
  return std::max(options.tile, std::min(options.max_batch, kMostShared));
}

}  // namespace sluice
