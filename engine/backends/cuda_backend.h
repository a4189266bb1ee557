// The model's blocks on a GPU: kernels_cuda over weights and caches in its memory. The routed experts are
// computed elsewhere; ExpertHandover carries their tokens. cuda_attention.cpp and cuda_ffn.cpp hold one half
// of a layer each, cuda_token_graph.cpp all layers of a single token as one graph, cuda_backend.cpp the rest.
// Everything is put into one stream; the host waits where an MoE layer's tokens go to the experts, for an
// observer, and for logits.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/backends/backend.h"
#include "engine/backends/cuda_activations.h"
#include "engine/backends/cuda_arena.h"
#include "engine/backends/cuda_block_clock.h"
#include "engine/backends/cuda_cache.h"
#include "engine/backends/cuda_experts.h"
#include "engine/backends/cuda_products.h"
#include "engine/backends/cuda_weights.h"
#include "engine/backends/expert_handover.h"
#include "engine/model.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/graph.h"
#include "kernels_cuda/base/stream.h"
#include "kernels_cuda/cache_write.h"
#include "offload/workers.h"

namespace sluice {

class CudaBackend final : public Backend {
 public:
  /// References are kept but for `workers`, who compute the table of angles. `options.max_batch` bounds a
  /// batch. Throws Error when CUDA fails; whether there is memory is the caller's to know
  /// (gpu_working_memory.h).
  CudaBackend(const Model& model, const CudaWeights& weights, const RuntimeOptions& options,
              offload::Workers& workers);

  /// Throws Error naming `source` and the dimension when the kernels do not take the model's shape.
  static void require_shape(const ModelConfig& config, const std::string& source);

  [[nodiscard]] std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type) override;
  void embed(const Batch& batch) override;
  void attention(int64_t layer, const Batch& batch) override;
  void dense_ffn(int64_t layer, int64_t n_tokens) override;
  [[nodiscard]] bool has_experts(int64_t layer) const override;
  void routed_ffn(int64_t layer, const Batch& batch) override;
  Routed route(int64_t layer, int64_t n_tokens) override;
  void finish_experts(int64_t layer, int64_t n_tokens) override;
  MatrixView<const float> residual(int64_t n_tokens) override;
  void final_norm(RowRange rows) override;
  void head(RowRange rows, MatrixView<float> logits) override;
  void give_up_pass() override;
  void correct_times(LayerTimes& times) override;

 private:
  /// Tokens [begin, begin + count) of a batch, at most kCudaTileTokens.
  struct Tile {
    int64_t begin;
    int64_t count;
    bool selects;  // some token attends to a choice of positions and not to all up to its own
  };

  /// What a graph of one token was captured for.
  struct TokenShape {
    const std::byte* cache = nullptr;
    int64_t capacity = 0;
    CacheType type = CacheType::kBF16;
    AttentionMode attention = AttentionMode::kSparse;
    int64_t most_visible = 0;  // tokens of context that its launches are laid out for
    bool operator==(const TokenShape&) const = default;
  };
  struct TokenGraph {
    TokenShape shape;
    cuda::Graph graph;
  };

  [[nodiscard]] const CudaLayer& layer_weights(int64_t layer) const;
  [[nodiscard]] cuda::TokenPositions positions(int64_t n) const;
  /// True when the token of this position attends to a choice of positions.
  [[nodiscard]] bool selects(const Batch& batch, int64_t position) const;
  /// The first n rows of [n, cols] in memory of the host, which are valid until the next call.
  std::span<const float> to_host(const float* data, int64_t n, int64_t cols);
  void fill_angles(offload::Workers& workers);
  // normed = RMSNorm(residual)
  void norm_residual(const float* gain, int64_t n);
  // residual += block_output
  void add_block(int64_t n);
  // residual += SwiGLU(normed)
  void ffn(const CudaFfn& weights, int64_t n);

  // The blocks as kernels in the stream: what is captured, or runs as it comes.
  void put_embedding(int64_t n);
  void put_attention(int64_t layer, const Batch& batch);
  void put_dense_ffn(int64_t layer, int64_t n);
  void put_choice(int64_t layer, int64_t n);
  void put_route(int64_t layer, int64_t n);
  void put_sum(int64_t layer, int64_t n);
  void put_routed_ffn(int64_t layer, int64_t n);
  void observe_routes(int64_t layer, const Batch& batch);

  // One token as one graph (cuda_token_graph.cpp).
  [[nodiscard]] TokenShape token_shape(const Batch& batch) const;
  const cuda::Graph& token_graph(const Batch& batch);
  void put_token(const Batch& widest);

  void stage(const Batch& batch);

  // The steps of the attention block, in order (model specification 2.2, 2.6, 2.5).
  void project_input(const CudaLayer& layer, int64_t n, bool any_selects);
  void project_query(const CudaLayer& layer, int64_t n, bool any_selects);
  void store(int64_t layer, int64_t n, const CudaCache& cache);
  void absorb_query(const CudaLayer& layer, const Tile& tile);
  void select(int64_t layer, const Batch& batch, const Tile& tile, const CudaCache& cache);
  void attend(int64_t layer, const Batch& batch, const Tile& tile, const CudaCache& cache);
  void expand_value(const CudaLayer& layer, const Tile& tile);
  void observe_selection(int64_t layer, const Batch& batch, const Tile& tile);

  const Model& model_;
  const ModelConfig& config_;
  const CudaModel& weights_;
  const CudaExpertWeights& expert_weights_;
  int64_t max_tokens_;
  int64_t multiprocessors_;
  cuda::Stream stream_;
  CudaProducts products_;
  CudaArena arena_;
  CudaActivations buffers_;
  std::optional<CudaExperts> experts_;  // where some layers' experts are on the GPU
  ExpertHandover handover_;
  cuda::PinnedBuffer<int32_t> staged_;  // [3, max_tokens]: ids, positions, lengths of the batch
  cuda::Event staged_free_;             // the copy of what is in staged_ is done
  std::vector<float> host_rows_;        // of to_host
  int64_t handed_over_;                 // MoE layers whose experts are the CPU's
  bool captures_;                       // single tokens are graphs
  bool replays_ = false;                // this pass is one
  int64_t unanswered_ = 0;              // MoE layers of this pass that wait, or will wait, for their experts
  std::vector<TokenGraph> graphs_;      // the last one used is the last one
  CudaBlockClock clock_;
};

}  // namespace sluice
