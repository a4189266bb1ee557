#include "engine/backends/gpu.h"

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

}  // namespace sluice
