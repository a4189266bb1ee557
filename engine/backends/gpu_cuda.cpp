// A build with CUDA: GPU 0.
#include <fmt/format.h>

#include "engine/backends/cuda_backend.h"
#include "engine/backends/cuda_cache.h"
#include "engine/backends/cuda_weights.h"
#include "engine/backends/gpu.h"
#include "engine/backends/gpu_working_memory.h"
#include "engine/memory_need.h"
#include "kernels_cuda/base/device.h"

namespace sluice {
namespace {

constexpr int kDevice = 0;

std::string name_of(const cuda::DeviceProperties& gpu) {
  return fmt::format("GPU {} ({}, {:.1f} GB)", kDevice, gpu.name,
                     static_cast<double>(gpu.memory_bytes) / 1e9);
}

}  // namespace

GpuFound find_gpu() {
  if (cuda::device_count() == 0) {
    return {.usable = false, .why_not = cuda::why_no_device(), .notice = {}};
  }
  const cuda::DeviceProperties gpu = cuda::device_properties(kDevice);
  if (!gpu.runs_our_kernels()) {
    const std::string why = fmt::format("{} is sm_{}, too old for the kernels, which need sm_{} or newer",
                                        name_of(gpu), gpu.capability, cuda::kLeastCapability);
    return {.usable = false, .why_not = why, .notice = why};
  }
  return {.usable = true, .why_not = {}, .notice = {}};
}

std::unique_ptr<const GpuWeights> load_gpu_weights(const Model& model, const RuntimeOptions& options,
                                                   offload::Workers& workers) {
  const ModelConfig& config = model.config();
  CudaBackend::require_shape(config, model.path().string());
  cuda::use_device(kDevice);
  const cuda::DeviceProperties gpu = cuda::device_properties(kDevice);
  require_gpu_memory(
      name_of(gpu),
      {.weights = CudaWeights::bytes_needed(model),
       .experts = CudaExpertWeights::bytes_needed(model, options.gpu_expert_layers),
       .working = gpu_working_memory(config, options, gpu.multiprocessors).total(),
       .max_batch = options.max_batch,
       .cache = CudaCache::bytes_needed(config, options.planned_context, options.planned_cache),
       .context = options.planned_context},
      cuda::device_memory().free_bytes);
  return std::make_unique<CudaWeights>(model, options.gpu_expert_layers, name_of(gpu), workers,
                                       options.load_stop);
}

std::unique_ptr<Backend> make_gpu_backend(const Model& model, const GpuWeights& weights,
                                          const RuntimeOptions& options, offload::Workers& workers) {
  cuda::use_device(kDevice);
  const cuda::DeviceProperties gpu = cuda::device_properties(kDevice);
  // The weights may have been loaded for another batch.
  require_gpu_memory(name_of(gpu),
                     {.working = gpu_working_memory(model.config(), options, gpu.multiprocessors).total(),
                      .max_batch = options.max_batch},
                     cuda::device_memory().free_bytes);
  return std::make_unique<CudaBackend>(model, dynamic_cast<const CudaWeights&>(weights), options, workers);
}

}  // namespace sluice
