// The weights that all tokens share, in the memory of a GPU: matrices as panels (quant/panel.h), vectors as
// they are. Copies of the file's, made once.
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/backends/cuda_arena.h"
#include "engine/backends/cuda_expert_weights.h"
#include "engine/backends/gpu.h"
#include "engine/model_part.h"
#include "engine/model_weights.h"
#include "offload/workers.h"
#include "quant/panel.h"

namespace sluice {

struct CudaFfn {
  quant::PanelView gate;  // [d_ffn, d_model]
  quant::PanelView up;
  quant::PanelView down;  // [d_model, d_ffn]
};

/// One matrix for each head, in panels of its own, one after the other (kernels_cuda/head_product.h).
struct CudaHeads {
  quant::PanelView panels;
  int64_t rows = 0;  // of a head
};

/// LayerWeights (engine/model_weights.h) on the GPU, with its names and shapes; unset where that is.
struct CudaLayer {
  const float* attention_norm = nullptr;
  quant::PanelView query_a;
  const float* query_a_norm = nullptr;
  quant::PanelView query_b;
  quant::PanelView kv_a;
  const float* kv_a_norm = nullptr;
  CudaHeads key_b;
  CudaHeads value_b;
  quant::PanelView output;
  quant::PanelView index_query;
  quant::PanelView index_key;
  quant::PanelView index_head_weights;  // its scale has the 1 / sqrt(index_heads * d_index) of formula 2.6
  const float* index_norm_gain = nullptr;
  const float* index_norm_bias = nullptr;
  const float* ffn_norm = nullptr;
  CudaFfn dense;
  quant::PanelView router;
  const float* router_bias = nullptr;
  CudaFfn shared;
};

/// Unset what is not of the part that was loaded.
struct CudaModel {
  quant::PanelView token_embedding;  // the same panels as `output` where the file ties them
  std::vector<CudaLayer> layers;     // all of the model's
  const float* output_norm = nullptr;
  quant::PanelView output;
};

class CudaWeights final : public GpuWeights {
 public:
  /// Packs a part with all workers and copies it to this thread's GPU, which must have bytes_needed() free,
  /// and what the experts of `expert_layers` need. Throws Error, and LoadStopped when `stop` was requested.
  CudaWeights(const Model& model, const ModelPart& part, const std::vector<int64_t>& expert_layers,
              const std::string& gpu_name, offload::Workers& workers, const std::stop_token& stop);

  /// What it would allocate but for the experts.
  static int64_t bytes_needed(const Model& model, const ModelPart& part);

  [[nodiscard]] const CudaModel& model() const { return model_; }
  [[nodiscard]] const CudaExpertWeights& experts() const { return experts_; }
  [[nodiscard]] const std::string& description() const override { return description_; }

 private:
  CudaArena arena_;
  CudaModel model_;
  CudaExpertWeights experts_;
  std::string description_;
};

}  // namespace sluice
