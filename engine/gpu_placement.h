// Which routed experts the free memory of a GPU is filled with where nobody says where they go: those of
// whole layers, the last ones first, as offload::plan() decides; or, in as many bytes, those of all layers
// that recent tokens chose most. It takes byte counts alone, no measured rates.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/backends/gpu.h"
#include "engine/model.h"
#include "engine/model_config.h"
#include "engine/runtime.h"
#include "quant/tensor.h"

namespace sluice {

struct GpuFilling {
  std::vector<int64_t> layers = {};  // whose experts go there, ascending
  int64_t bytes = 0;                 // that these take there
  int64_t next_bytes = 0;            // that the experts of one layer more would take; 0: there is none
  int64_t pass_tokens = 0;           // of the longest pass that has room beside them, or -b

  bool operator==(const GpuFilling&) const = default;
};

/// Pure. `options` are a GPU's and checked (checked_options): their cache, context, passes, streaming, limit
/// and first GPU layer count, `gpu_expert_layers` does not. `tensors` are a file's. What does not fit even
/// with all experts in RAM gets none, and is for load_gpu_weights() to refuse. Throws Error as plan_model()
/// does, and naming --vram-limit when it is more than there is.
GpuFilling gpu_filling(const ModelConfig& config, std::span<const quant::Tensor> tensors,
                       const RuntimeOptions& options, const GpuMemory& memory, std::string_view source);

/// For the GPU as it is now; none where `options` use none. Throws Error as checked_options() does, too.
std::optional<GpuFilling> gpu_filling_now(const Model& model, const RuntimeOptions& options);

/// `options`, which use a GPU, with those experts there and passes no longer than planned.
RuntimeOptions filled(RuntimeOptions options, const GpuFilling& filling);

/// `options`, which use a GPU, with all experts in RAM and as many bytes for an expert cache.
RuntimeOptions cached(RuntimeOptions options, const GpuFilling& filling);

/// "GPU: experts of layers 49-60 (76.1 GB) there, -ncmoe 49"; without any "GPU: experts stay in RAM, those of
/// a layer (6.3 GB) do not fit, -cmoe".
std::string filling_text(const GpuFilling& filling);
/// "GPU: 76.1 GB there for the experts that recent tokens chose most"; without any as filling_text().
std::string cache_text(const GpuFilling& filling);

}  // namespace sluice
