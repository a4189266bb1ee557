// Memory of a GPU that is planned before it is taken.
#pragma once

#include <cstdint>
#include <utility>

#include "engine/backends/device_layout.h"
#include "kernels_cuda/base/buffer.h"

namespace sluice {

class CudaArena : public DeviceLayout {
 public:
  /// Throws Error when the GPU has no such memory.
  explicit CudaArena(int64_t bytes) : CudaArena(cuda::Memory(cuda::MemoryKind::kDevice, bytes)) {}

 private:
  explicit CudaArena(cuda::Memory memory)
      : DeviceLayout(memory.data(), memory.bytes()), memory_(std::move(memory)) {}

  cuda::Memory memory_;
};

}  // namespace sluice
