// The GPUs of the machine and what one offers to kernels.
#pragma once

#include <cstdint>
#include <string>

namespace sluice::cuda {

/// Shared memory that every kernel here stays below, static and dynamic together: what a block may have on
/// sm_86, sm_89 and sm_120 (CUDA C++ Programming Guide, table of compute capabilities).
inline constexpr int64_t kMostSharedBytes = 101376;

/// Kernels are built for this compute capability (major * 10 + minor) and newer.
inline constexpr int kLeastCapability = 80;

struct DeviceProperties {
  std::string name;
  int capability = 0;  // major * 10 + minor, e.g. 89
  int64_t multiprocessors = 0;
  int64_t shared_bytes_per_block = 0;  // what a kernel may opt in to
  int64_t shared_bytes_per_multiprocessor = 0;
  int64_t l2_bytes = 0;
  int64_t memory_bytes = 0;  // of the whole card
  int64_t copy_engines = 0;
  [[nodiscard]] bool runs_our_kernels() const { return capability >= kLeastCapability; }
};

/// How many GPUs there are; 0 as well when there is no driver, or one too old for this run-time library.
int device_count();
/// Why device_count() is 0, in CUDA's words; empty when it is not.
std::string why_no_device();

/// Of GPU `device`, counted from 0. Throws Error when there is none of that number.
DeviceProperties device_properties(int device);

/// The GPU that this thread's later calls use. Throws Error as above.
void use_device(int device);

struct DeviceMemory {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
};
/// Of this thread's GPU, at this moment.
DeviceMemory device_memory();

}  // namespace sluice::cuda
