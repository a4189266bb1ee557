#include "engine/backends/gpu.h"

#include <fmt/format.h>

#include <algorithm>

#include "offload/batch_split.h"
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

bool copies_experts(const RuntimeOptions& options) {
  return options.prefill != Prefill::kCpu || options.expert_cache_bytes > 0;
}

int64_t allowed_bytes(const GpuMemory& memory, int64_t limit) {
  const int64_t in_use = memory.total - memory.free;
  return limit == 0 ? memory.free : std::clamp<int64_t>(limit - in_use, 0, memory.free);
}

std::string page_lock_notice(const PageLock& lock) {
  if (lock.problem.empty()) {
    return {};
  }
  const auto gigabytes = [](int64_t bytes) { return static_cast<double>(bytes) / 1e9; };
  return fmt::format(
      "{:.1f} of {:.1f} GB of experts are page-locked, the others reach the GPU through a buffer, which "
      "makes "
      "long prompts slower and leaves an expert cache empty ({}): a higher limit of locked memory (ulimit "
      "-l) or more free memory helps, "
      "--prefill cpu copies no experts.",
      gigabytes(lock.locked_bytes), gigabytes(lock.bytes), lock.problem);
}

int64_t most_cpu_tokens(const RuntimeOptions& options) {
  if (options.first_gpu_layer > 0) {
    return options.max_batch;
  }
  return std::max(options.tile, std::min(options.max_batch, offload::kMostSharedTokens));
}

}  // namespace sluice
