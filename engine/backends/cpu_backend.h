// The model's blocks on the CPU: kernels_cpu over the quantized weights where they lie, split into ranges by
// the workers. cpu_attention.cpp and cpu_ffn.cpp hold one half of a layer each, cpu_backend.cpp the rest.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "engine/backends/backend.h"
#include "engine/backends/cpu_activations.h"
#include "engine/model.h"
#include "kernels_cpu/kernels_cpu.h"
#include "offload/workers.h"

namespace sluice {

class CpuBackend final : public Backend {
 public:
  /// References are kept. `max_tokens` bounds a batch.
  CpuBackend(const Model& model, const cpu::Kernels& kernels, offload::Workers& workers, int64_t max_tokens);

  void embed(const Batch& batch, MatrixView<float> x) override;
  void attention(int64_t layer, const Batch& batch, MatrixView<float> x) override;
  void dense_ffn(int64_t layer, MatrixView<float> x) override;
  Routed route(int64_t layer, MatrixView<const float> x) override;
  void shared_expert(int64_t layer, MatrixView<const float> f, MatrixView<float> x) override;
  void final_norm(MatrixView<float> x) override;
  void head(MatrixView<const float> x, MatrixView<float> logits) override;

 private:
  struct WorkerScratch {
    std::vector<float> floats;  // matmul, attention, indexer or router
    std::vector<float> scores;  // index scores of one query, one per visible position
    std::vector<uint64_t> top_k;
    std::vector<int32_t> selected;  // [index_top_k]
  };

  // y[t] = W x[t] for all rows, split over the workers.
  void matmul(const quant::WeightView& w, MatrixView<const float> x, MatrixView<float> y);
  void rms_norm(MatrixView<const float> x, std::span<const float> gain, MatrixView<float> y);
  // x += SwiGLU(f) with these weights.
  void ffn(const FfnWeights& weights, MatrixView<const float> f, MatrixView<float> x);

  // The steps of the attention block, in order (model specification 2.2, 2.6, 2.5).
  void prepare_rope(const Batch& batch);
  void project_query(const LayerWeights& layer, int64_t n);
  void store_latents(int64_t layer, const Batch& batch);
  void store_index_keys(int64_t layer, const Batch& batch);
  void project_index_query(const IndexerWeights& weights, int64_t n);
  void absorb_query(const LayerWeights& layer, int64_t n);
  void attend(int64_t layer, const Batch& batch);
  void attend_token(int64_t layer, const Batch& batch, int64_t t, int64_t head_begin, int64_t head_end,
                    std::span<const int32_t> selected, WorkerScratch& scratch);
  // Positions that token t attends to, ascending, or empty for all up to its own.
  std::span<const int32_t> select(int64_t layer, const Batch& batch, int64_t t, WorkerScratch& scratch);
  [[nodiscard]] bool selects(const Batch& batch, int64_t position) const;
  void score_keys(int64_t layer, const Batch& batch, int64_t t, int64_t begin, std::span<float> scores,
                  WorkerScratch& scratch);

  const Model& model_;
  const ModelConfig& config_;
  const cpu::Kernels& kernels_;
  offload::Workers& workers_;
  std::vector<float> frequencies_;  // [d_rope / 2]
  CpuActivations buffers_;
  std::vector<WorkerScratch> scratch_;  // one per worker
  std::mutex observer_mutex_;
};

}  // namespace sluice
