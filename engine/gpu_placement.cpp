#include "engine/gpu_placement.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/plan_input.h"
#include "offload/plan.h"

namespace sluice {
namespace {

using offload::MachineProfile;
using offload::PlanConstraints;
using offload::PlanModel;

PlanInputOptions input_options(const RuntimeOptions& options) {
  return {.cache_type = options.planned_cache,
          .attention = options.attention,
          .activations = options.activations,
          .streams = options.prefill != Prefill::kCpu && options.expert_memory == ExpertMemory::kLoaded};
}

/// RAM without end: who has too little of it is told so when experts are loaded, and the fewer they are the
/// better.
MachineProfile machine_of(const GpuMemory& memory) {
  constexpr int64_t kEndless = int64_t{1} << 60;
  return {.name = memory.name,
          .source = {},
          .cpu = {.name = "RAM", .nodes = {{.memory_bytes = kEndless, .read_gb_per_s = 1}}},
          .gpu = offload::GpuProfile{.name = memory.name,
                                     .memory_bytes = memory.total,
                                     .driver_bytes = memory.total - memory.free,
                                     .multiprocessors = memory.multiprocessors}};
}

PlanConstraints constraints_of(const ModelConfig& config, const RuntimeOptions& options) {
  PlanConstraints constraints{.context = std::min(options.planned_context, config.context_length),
                              .batch = options.max_batch,
                              .micro_batch = options.tile,
                              .gpu_layers = config.layers + 1 - options.first_gpu_layer};
  if (options.gpu_memory_limit > 0) {
    constraints.vram_limit = options.gpu_memory_limit;
  }
  return constraints;
}

/// Of the last layer whose experts stay in RAM though the GPU computes the layer.
int64_t next_bytes(const PlanModel& model, const offload::Plan& plan) {
  for (size_t i = model.layers.size(); i-- > 0;) {
    if (plan.layers[i].on_gpu && !plan.layers[i].experts_on_gpu && model.layers[i].experts > 0) {
      return model.layers[i].gpu_experts;
    }
  }
  return 0;
}

std::string size_text(int64_t bytes) {
  constexpr int64_t kGigabyte = 1'000'000'000;
  return bytes < kGigabyte ? fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6)
                           : fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
}

}  // namespace

GpuFilling gpu_filling(const ModelConfig& config, std::span<const quant::Tensor> tensors,
                       const RuntimeOptions& options, const GpuMemory& memory, std::string_view source) {
  const PlanModel model = plan_model(config, tensors, input_options(options), source);
  const offload::Plan plan = offload::plan(model, machine_of(memory), constraints_of(config, options));
  GpuFilling filling{
      .layers = {}, .bytes = 0, .next_bytes = next_bytes(model, plan), .pass_tokens = plan.pass_tokens};
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    if (plan.layers[i].experts_on_gpu) {
      filling.layers.push_back(static_cast<int64_t>(i));
      filling.bytes += model.layers[i].gpu_experts;
    }
  }
  return filling;
}

std::optional<GpuFilling> gpu_filling_now(const Model& model, const RuntimeOptions& options) {
  const RuntimeOptions checked = checked_options(model, options);
  if (checked.device != Device::kGpu) {
    return {};
  }
  return gpu_filling(model.config(), model.file().tensors(), checked, gpu_memory(), model.path().string());
}

RuntimeOptions filled(RuntimeOptions options, const GpuFilling& filling) {
  options.device = Device::kGpu;
  options.gpu_expert_layers = filling.layers;
  options.most_batch = filling.pass_tokens;
  return options;
}

RuntimeOptions cached(RuntimeOptions options, const GpuFilling& filling) {
  options.device = Device::kGpu;
  options.expert_cache_bytes = filling.bytes;
  options.most_batch = filling.pass_tokens;
  return options;
}

std::string cache_text(const GpuFilling& filling) {
  return filling.bytes == 0 ? filling_text(filling)
                            : fmt::format("GPU: {} there for the experts that recent tokens chose most",
                                          size_text(filling.bytes));
}

std::string filling_text(const GpuFilling& filling) {
  if (filling.layers.empty()) {
    return filling.next_bytes == 0
               ? std::string("GPU: no experts there, -cmoe")
               : fmt::format("GPU: experts stay in RAM, those of a layer ({}) do not fit, -cmoe",
                             size_text(filling.next_bytes));
  }
  const int64_t first = filling.layers.front();
  const int64_t last = filling.layers.back();
  const std::string layers =
      first == last ? fmt::format("layer {}", first) : fmt::format("layers {}-{}", first, last);
  return fmt::format("GPU: experts of {} ({}) there, -ncmoe {}", layers, size_text(filling.bytes), first);
}

}  // namespace sluice
