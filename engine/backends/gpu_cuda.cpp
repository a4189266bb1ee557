// A build with CUDA: GPU 0.
#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "engine/backends/cuda_backend.h"
#include "engine/backends/cuda_cache.h"
#include "engine/backends/cuda_weights.h"
#include "engine/backends/gpu.h"
#include "engine/backends/gpu_working_memory.h"
#include "engine/memory_need.h"
#include "kernels_cuda/base/device.h"
#include "kernels_cuda/base/out_of_memory.h"
#include "offload/plan.h"
#include "offload/staging_ring.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr int kDevice = 0;

std::string name_of(const cuda::DeviceProperties& gpu) {
  return fmt::format("GPU {} ({}, {:.1f} GB)", kDevice, gpu.name,
                     static_cast<double>(gpu.memory_bytes) / 1e9);
}

/// The same where a limit is what counts.
std::string limited_name(const cuda::DeviceProperties& gpu, const RuntimeOptions& options) {
  return options.gpu_memory_limit == 0 ? name_of(gpu)
                                       : fmt::format("{} with --vram-limit {:.2f} GB", name_of(gpu),
                                                     static_cast<double>(options.gpu_memory_limit) / 1e9);
}

/// Of this thread's GPU, within the limit.
int64_t free_bytes(const RuntimeOptions& options) {
  const cuda::DeviceMemory now = cuda::device_memory();
  return allowed_bytes({.name = {}, .total = now.total_bytes, .free = now.free_bytes},
                       options.gpu_memory_limit);
}

/// Where the CPU computes experts: it gets what a tile's tokens chose, so a pass is no longer than that.
RuntimeOptions least_of(RuntimeOptions options) {
  options.max_batch = options.max_batch == 0 ? options.tile : std::min(options.max_batch, options.tile);
  options.tile = options.max_batch;
  options.prefill = Prefill::kCpu;
  options.staging_bytes = 0;
  return options;
}

bool has_experts_from(const offload::ExpertWeights& experts, int64_t first_layer) {
  for (int64_t layer = first_layer; layer < experts.layers(); ++layer) {
    if (experts.experts(layer) > 0) {
      return true;
    }
  }
  return false;
}

std::string why_not_streamed(const offload::ExpertWeights& experts, const RuntimeOptions& options) {
  if (options.activations == Activations::kFloat32) {
    return "--exact";
  }
  if (!has_experts_from(experts, options.first_gpu_layer)) {
    return "no experts of the GPU's layers in memory";
  }
  return can_be_streamed(experts) ? "" : "mapped ones, or ones of a type that is not quantized";
}

/// Whether the GPU has all experts, in types that meet a pass's tokens at once: long passes gain without
/// streaming, too.
bool keeps_all_experts(const CudaExpertWeights& kept, const offload::ExpertWeights& experts,
                       const RuntimeOptions& options) {
  return options.activations == Activations::kInt8 && streamed_sizes(experts).experts == 0 &&
         !options.gpu_expert_layers.empty() &&
         std::ranges::all_of(options.gpu_expert_layers,
                             [&](int64_t layer) { return CudaPassExperts::takes(*kept.layer(layer)); });
}

std::string gigabytes(int64_t bytes) {
  return fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9);
}

/// The longest pass and, for experts that are streamed, the ring that the free memory of this thread's GPU
/// has room for.
class PassFit {
 public:
  /// `sizes` of nothing: no experts are streamed.
  PassFit(const Model& model, const StreamedSizes& sizes, const RuntimeOptions& options)
      : model_(model),
        sizes_(sizes),
        multiprocessors_(cuda::device_properties(kDevice).multiprocessors),
        free_(free_bytes(options) - offload::kGpuReserveBytes -
              CudaCache::bytes_needed(model.config(), parts_of(model.config(), options).gpu.layers,
                                      options.planned_context, options.planned_cache)),
        options_(options) {
    if (!streams()) {
      options_.prefill = Prefill::kCpu;
      options_.staging_bytes = 0;
    }
    options_.max_batch = options.max_batch == 0 ? most_batch() : options.max_batch;
    while (options.max_batch == 0 && options_.max_batch > options.tile && !has_room()) {
      options_.max_batch = std::max(options_.max_batch / 2, options.tile);
    }
    options_.tile = std::min(options_.tile, options_.max_batch);
    fits_ = has_room();
    if (fits_ && streams()) {
      choose_ring();
    }
  }

  [[nodiscard]] bool fits() const { return fits_; }
  [[nodiscard]] const RuntimeOptions& options() const { return options_; }
  [[nodiscard]] std::string need() const {
    return fmt::format("{} of free GPU memory for passes of {} tokens (-b) and {} experts under way",
                       gigabytes(needed()), options_.max_batch, kLeastSlots);
  }
  [[nodiscard]] std::string found() const {
    return needed() <= free_ ? fmt::format("{} for experts under way", gigabytes(options_.staging_bytes))
                             : gigabytes(std::max<int64_t>(free_, 0)) + " free";
  }

 private:
  [[nodiscard]] bool streams() const { return sizes_.experts > 0; }
  [[nodiscard]] bool has_room() const {
    return (!streams() || staging_shape(sizes_, least_ring()).slots > 0) && needed() <= free_;
  }
  void choose_ring() {
    if (options_.staging_bytes == 0) {
      options_.staging_bytes = offload::ring_bytes(least_ring(), free_ - needed());
    }
    options_.staging_bytes = staging_shape(sizes_, options_.staging_bytes).bytes();
  }
  /// No pass is longer than the context, where it is known, nor than a tile where the CPU has whole layers:
  /// it gains nothing by more, and its working memory would grow.
  [[nodiscard]] int64_t most_batch() const {
    if (options_.first_gpu_layer > 0) return options_.tile;
    const int64_t context = options_.planned_context == 0 ? kMostBatch : options_.planned_context;
    return std::max(options_.tile, std::min(options_.most_batch, context));
  }
  [[nodiscard]] int64_t least_ring() const {
    return options_.staging_bytes > 0 ? options_.staging_bytes : kLeastSlots * sizes_.expert_bytes;
  }
  [[nodiscard]] int64_t needed() const {
    RuntimeOptions least = options_;
    least.tile = std::min(least.tile, least.max_batch);
    least.staging_bytes = least_ring();
    return CudaBackend::bytes_needed(model_.config(), least, sizes_, multiprocessors_);
  }

  const Model& model_;
  StreamedSizes sizes_;
  int64_t multiprocessors_;
  int64_t free_;
  RuntimeOptions options_;
  bool fits_ = false;
};

/// What `make` returns. Memory is counted before it is taken, so that only what others took meanwhile, or
/// what the driver took for itself, can be missing: then it is told for what, and what helps.
template <typename Make>
auto with_gpu_memory(const std::string& purpose, const Make& make) {
  try {
    return make();
  } catch (const cuda::OutOfMemory& error) {
    throw Error(error.subject(), fmt::format("{} for {}", error.expected(), purpose), error.found());
  }
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

GpuMemory gpu_memory() {
  cuda::use_device(kDevice);
  const cuda::DeviceProperties gpu = cuda::device_properties(kDevice);
  const cuda::DeviceMemory now = cuda::device_memory();
  return {.name = gpu.name,
          .total = now.total_bytes,
          .free = now.free_bytes,
          .multiprocessors = gpu.multiprocessors};
}

std::unique_ptr<const GpuWeights> load_gpu_weights(const Model& model, const RuntimeOptions& options,
                                                   offload::Workers& workers) {
  const ModelConfig& config = model.config();
  const ModelPart part = parts_of(config, options).gpu;
  CudaBackend::require_shape(config, model.path().string());
  cuda::use_device(kDevice);
  const cuda::DeviceProperties gpu = cuda::device_properties(kDevice);
  const RuntimeOptions least = least_of(options);
  require_gpu_memory(
      limited_name(gpu, options),
      {.weights = CudaWeights::bytes_needed(model, part),
       .experts = CudaExpertWeights::bytes_needed(model, options.gpu_expert_layers),
       .working = CudaBackend::bytes_needed(config, least, {}, gpu.multiprocessors),
       .max_batch = least.max_batch,
       .cache = CudaCache::bytes_needed(config, part.layers, options.planned_context, options.planned_cache),
       .context = options.planned_context},
      free_bytes(options));
  return with_gpu_memory("weights (a smaller -ngl or a larger -ncmoe leaves more to the CPU)", [&] {
    return std::make_unique<CudaWeights>(model, part, options.gpu_expert_layers, name_of(gpu), workers,
                                         options.load_stop);
  });
}

std::unique_ptr<const GpuHostMemory> prepare_host_memory(const offload::ExpertWeights& experts,
                                                         const RuntimeOptions& options) {
  const bool used = copies_experts(options) && can_be_streamed(experts);
  return std::make_unique<CudaPinnedStore>(
      used ? experts.memory() : std::vector<std::span<const std::byte>>(), kDevice);
}

RuntimeOptions sized_for_gpu(const Model& model, const GpuWeights& weights,
                             const offload::ExpertWeights& experts, RuntimeOptions options) {
  cuda::use_device(kDevice);
  const RuntimeOptions without = least_of(options);
  const CudaExpertWeights& kept = dynamic_cast<const CudaWeights&>(weights).experts();
  if (keeps_all_experts(kept, experts, options)) {
    const PassFit fit(model, {}, options);
    return fit.fits() ? fit.options() : without;
  }
  if (options.prefill == Prefill::kCpu) {
    return without;
  }
  const std::string why_not = why_not_streamed(experts, options);
  const PassFit fit(model, streamed_sizes(experts), options);
  if (why_not.empty() && fit.fits()) {
    return fit.options();
  }
  // Where all experts are the GPU's there is nothing to ask for.
  if (options.prefill == Prefill::kStream && streamed_sizes(experts).experts > 0) {
    throw Error("--prefill stream", why_not.empty() ? fit.need() : "experts that can be streamed",
                why_not.empty() ? fit.found() : why_not);
  }
  return without;
}

std::unique_ptr<Backend> make_gpu_backend(const Model& model, const GpuModel& parts,
                                          const RuntimeOptions& options, offload::Workers& workers) {
  cuda::use_device(kDevice);
  const cuda::DeviceProperties gpu = cuda::device_properties(kDevice);
  // The weights may have been loaded for another batch.
  require_gpu_memory(limited_name(gpu, options),
                     {.working = CudaBackend::bytes_needed(
                          model.config(), options, streamed_sizes(parts.experts), gpu.multiprocessors),
                      .max_batch = options.max_batch},
                     free_bytes(options));
  return with_gpu_memory(
      fmt::format("passes of {} tokens (-b, -ub) and experts under way", options.max_batch), [&] {
        return std::make_unique<CudaBackend>(
            CudaBackend::Parts{model, dynamic_cast<const CudaWeights&>(parts.weights), parts.experts,
                               dynamic_cast<const CudaPinnedStore&>(parts.host_memory)},
            options, workers);
      });
}

}  // namespace sluice
