// What the GPU of this machine can do with our kernels, for a plan (`sluice tune`). Implemented with CUDA by
// cuda_rates.cpp, without by gpu_none.cpp.
#pragma once

#include <functional>
#include <optional>
#include <stop_token>
#include <string_view>

#include "offload/machine_profile.h"

namespace sluice {

/// Called before each measurement with what it measures.
using RateProgress = std::function<void(std::string_view what)>;

/// Of GPU 0, in a few seconds and 3 GB of its memory, or less where less is free; all but bf16_tflops and
/// launch_us, which only a whole layer shows. None when there is no GPU that can compute, or when it was
/// stopped. Throws Error when CUDA fails.
std::optional<offload::GpuProfile> measure_gpu(const RateProgress& progress, const std::stop_token& stop);

}  // namespace sluice
