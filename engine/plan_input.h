// A model as offload::plan() wants it: bytes of every tensor where it may lie, and of everything that is
// allocated beside them, counted as the backends do. From the table of tensors alone: no weight is read.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/caches.h"
#include "engine/model_config.h"
#include "engine/runtime.h"
#include "offload/plan_model.h"
#include "quant/tensor.h"

namespace sluice {

struct PlanInputOptions {
  CacheType cache_type = CacheType::kBF16;
  AttentionMode attention = AttentionMode::kSparse;
  Activations activations = Activations::kInt8;
  bool streams = true;  // not --prefill cpu, nor --mmap; experts of types that are not quantized never are
};

/// `tensors` are a file's; those of MTP layers are left out, as they are by the model. Throws Error naming
/// `source` and a tensor without which the model would not load.
offload::PlanModel plan_model(const ModelConfig& config, std::span<const quant::Tensor> tensors,
                              const PlanInputOptions& options, std::string_view source);

/// Bytes of the matrices that all tokens share, as PanelWeights has them, and as CudaWeights has them with
/// all vectors; both of all layers and both ends.
int64_t shared_ram_bytes(const offload::PlanModel& model);
int64_t shared_gpu_bytes(const offload::PlanModel& model);

}  // namespace sluice
