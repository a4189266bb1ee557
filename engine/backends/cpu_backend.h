// The model's blocks on the CPU: kernels_cpu over the quantized weights where they lie, split into ranges by
// the workers. cpu_attention.cpp and cpu_ffn.cpp hold one half of a layer each, latent_attention.cpp what
// reads the cache, cpu_backend.cpp the rest.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/backends/backend.h"
#include "engine/backends/cpu_activations.h"
#include "engine/backends/latent_attention.h"
#include "engine/backends/panel_weights.h"
#include "engine/model.h"
#include "kernels_cpu/kernels_cpu.h"
#include "offload/activation_rows.h"
#include "offload/workers.h"

namespace sluice {

class CpuBackend final : public Backend {
 public:
  /// References are kept. `options.max_batch` bounds a batch; caches are of `layers`. `panels` is null when
  /// activations are float32.
  CpuBackend(const Model& model, const RuntimeOptions& options, LayerRange layers, const PanelWeights* panels,
             cpu::Isa isa, offload::Workers& workers);

  [[nodiscard]] std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type) override;
  void embed(const Batch& batch) override;
  void resume(const Batch& batch, MatrixView<const float> x) override;
  void keep_last_token(int64_t layer, const Batch& batch) override;
  void attention(int64_t layer, const Batch& batch) override;
  void dense_ffn(int64_t layer, int64_t n_tokens) override;
  Routed route(int64_t layer, int64_t n_tokens) override;
  void finish_experts(int64_t layer, int64_t n_tokens) override;
  MatrixView<const float> residual(int64_t n_tokens) override { return buffers_.residual.rows(n_tokens); }
  void final_norm(RowRange rows) override;
  void head(RowRange rows, MatrixView<float> logits) override;

 private:
  struct WorkerScratch {
    std::vector<float> floats;       // matmul or router
    offload::Int8Rows quantized{0};  // of a head's product
  };
  // y[t] = W x[t], x being the same for several.
  struct Product {
    const quant::WeightView* w;
    MatrixView<float> y;
  };
  // A product as one of several that share a loop: its rows in units of kPanelRows.
  struct Share;

  // All rows of all products, split over the workers in one loop.
  void matmul(std::span<const Product> products, MatrixView<const float> x);
  void matmul(const quant::WeightView& w, MatrixView<const float> x, MatrixView<float> y);
  void quantize(MatrixView<const float> x, cpu::PanelNumerics numerics);
  void multiply(const Share& share, int64_t begin, int64_t end, MatrixView<const float> x,
                std::span<float> scratch);
  // The product of one head's matrix, by one worker.
  void matmul_head(const quant::WeightView& w, MatrixView<const float> x, MatrixView<float> y,
                   int64_t worker);
  void rms_norm(MatrixView<const float> x, std::span<const float> gain, MatrixView<float> y);
  // residual += SwiGLU(normed) with these weights.
  void ffn(const FfnWeights& weights, int64_t n);

  // The steps of the attention block, in order (model specification 2.2, 2.6, 2.5).
  void prepare_rope(const Batch& batch);
  void project_input(const LayerWeights& layer, int64_t n, AttentionUse use);
  void project_query(const LayerWeights& layer, int64_t n, bool selects, CacheType cache_type);
  void store(int64_t layer, const Batch& batch);
  void store_latents(int64_t layer, const Batch& batch);
  void store_index_keys(int64_t layer, const Batch& batch);
  void rotate_index_query(int64_t n, CacheType cache_type);
  void absorb_query(const LayerWeights& layer, int64_t n);

  const Model& model_;
  const ModelConfig& config_;
  LayerRange layers_;
  const cpu::Kernels& kernels_;
  const cpu::PanelKernels& panel_kernels_;
  offload::Workers& workers_;
  const PanelWeights* panels_;      // null when activations are float32
  offload::Int8Rows quantized_;     // what a product of panels reads
  std::vector<float> frequencies_;  // [d_rope / 2]
  // The positions whose angles buffers_.cos_sin holds.
  int64_t rope_first_position_ = -1;
  int64_t rope_tokens_ = 0;
  CpuActivations buffers_;
  LatentAttention attention_;
  std::vector<WorkerScratch> scratch_;  // one per worker
};

}  // namespace sluice
