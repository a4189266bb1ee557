// The model's blocks on a GPU: kernels_cuda over weights and caches in its memory. A pass goes through a
// block in tiles of tokens. Routed experts are computed by the CPU, to which ExpertHandover carries the
// tokens, or once for the whole pass (cuda_pass_experts.h): those that the GPU has, and those that a second
// stream copies there (cuda_prefill.h). cuda_attention.cpp and cuda_ffn.cpp hold one half of a layer each,
// cuda_token_graph.cpp all layers of a single token as one graph, cuda_backend.cpp the rest. The host waits
// where an MoE layer's tokens go to the experts, for an observer, and for logits.
#pragma once

#include <algorithm>
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
#include "engine/backends/cuda_candidates.h"
#include "engine/backends/cuda_expert_cache.h"
#include "engine/backends/cuda_experts.h"
#include "engine/backends/cuda_pass_experts.h"
#include "engine/backends/cuda_prefill.h"
#include "engine/backends/cuda_products.h"
#include "engine/backends/cuda_progress.h"
#include "engine/backends/cuda_weights.h"
#include "engine/backends/expanded_attention.h"
#include "engine/backends/expert_handover.h"
#include "engine/model.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/graph.h"
#include "kernels_cuda/base/stream.h"
#include "kernels_cuda/cache_write.h"
#include "kernels_cuda/mla.h"
#include "offload/workers.h"

namespace sluice {

class CudaBackend final : public Backend {
 public:
  /// What a backend computes from.
  struct Parts {
    const Model& model;
    const CudaWeights& weights;
    const offload::ExpertWeights& experts;
    const CudaPinnedStore& pinned;
  };
  /// References are kept. `options` are resolved. Throws Error when CUDA fails; whether there is memory is
  /// the caller's to know (bytes_needed).
  CudaBackend(const Parts& parts, const RuntimeOptions& options, offload::Workers& workers);

  /// GPU memory for such a backend, libraries included; `sizes` of the experts that are streamed, if any are.
  static int64_t bytes_needed(const ModelConfig& config, const RuntimeOptions& options,
                              const StreamedSizes& sizes, int64_t multiprocessors);
  /// Throws Error naming `source` and the dimension when the kernels do not take the model's shape.
  static void require_shape(const ModelConfig& config, const std::string& source);

  [[nodiscard]] std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type) override;
  void embed(const Batch& batch) override;
  void resume(const Batch& batch, MatrixView<const float> x) override;
  void keep_last_token(int64_t layer, const Batch& batch) override;
  void attention(int64_t layer, const Batch& batch) override;
  void dense_ffn(int64_t layer, int64_t n_tokens) override;
  [[nodiscard]] bool computes_experts(int64_t layer) const override;
  std::optional<Routed> routed_ffn(int64_t layer, const Batch& batch) override;
  Routed route(int64_t layer, int64_t n_tokens) override;
  void finish_experts(int64_t layer, int64_t n_tokens) override;
  MatrixView<const float> residual(int64_t n_tokens) override;
  void final_norm(RowRange rows) override;
  void head(RowRange rows, MatrixView<float> logits) override;
  std::optional<LogitCandidates> candidates(int64_t row, const CandidateRequest& request) override;
  void read_logits(std::span<float> logits) override;
  void give_up_pass() override;
  [[nodiscard]] std::string failed_in() const override;
  void correct_times(LayerTimes& times) override;

 private:
  /// Tokens [begin, begin + count) of a tile: at most buffers_.step of what selects or is absorbed.
  struct Step {
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
  [[nodiscard]] cuda::TokenPositions positions(const Batch& batch) const;
  static RowRange rows_of(const Batch& batch) { return {batch.first_row, batch.n_tokens()}; }
  [[nodiscard]] float* residual_at(RowRange rows) const {
    return buffers_.residual + rows.begin * config_.d_model;
  }
  /// fn(RowRange) for each tile of a pass of n tokens.
  template <typename Fn>
  void for_tiles(int64_t n, Fn&& fn) const {
    for (int64_t begin = 0; begin < n; begin += tile_) {
      fn(RowRange{begin, std::min(tile_, n - begin)});
    }
  }
  [[nodiscard]] bool is_resident(int64_t layer) const { return expert_weights_.layer(layer) != nullptr; }
  /// The first layer from `layer` on whose experts are in memory, of those that all tokens of this pass go
  /// through, or -1.
  [[nodiscard]] int64_t streamed_layer(int64_t layer) const;
  /// True when the token of this position attends to a choice of positions.
  [[nodiscard]] bool selects(const Batch& batch, int64_t position) const;
  /// The first n rows of [n, cols] in memory of the host, which are valid until the next call.
  std::span<const float> to_host(const float* data, int64_t n, int64_t cols);
  void fill_angles(offload::Workers& workers);
  // normed = RMSNorm(residual), these rows of it, which begins the block of `mark`
  void norm_residual(const float* gain, RowRange rows, cuda::Mark mark);
  // residual += block_output
  void add_block(RowRange rows);
  // residual += SwiGLU(normed)
  void ffn(const CudaFfn& weights, RowRange rows);

  // The blocks as kernels in the stream: what is captured, or runs as it comes.
  void put_input(int64_t n);
  void put_attention(int64_t layer, const Batch& batch);
  void put_dense_ffn(int64_t layer, int64_t n);
  void put_attention_tile(int64_t layer, const Batch& batch);
  // Norm and router of these rows; ids and weights [rows.count, used].
  void put_choice(int64_t layer, RowRange rows, int32_t* ids, float* weights);
  void put_route(int64_t layer, int64_t n);
  void put_sum(int64_t layer, int64_t n);
  void put_resident_ffn(int64_t layer, RowRange rows);
  void put_cache_rows(int64_t layer, const Batch& batch);
  // What is done for all of a pass's tokens: norm, router and the experts' rows; the shared expert.
  void put_choices(int64_t layer, int64_t n);
  void put_shared(int64_t layer, int64_t n);
  void add_resident_experts(int64_t layer, const Batch& batch);
  [[nodiscard]] std::optional<Routed> stream_experts(int64_t layer, const Batch& batch);
  void observe_routes(int64_t layer, const Batch& batch);

  // One token as one graph (cuda_token_graph.cpp).
  [[nodiscard]] TokenShape token_shape(const Batch& batch) const;
  const cuda::Graph& token_graph(const Batch& batch);
  void put_token(const Batch& widest);

  void stage(const Batch& batch);
  // What embed() and resume() share: `batch` is staged.
  void begin_pass(const Batch& batch);
  void begin_streaming(int64_t n_tokens);
  void begin_caching(const Batch& batch);
  void read_copies(BlockTimes& times);
  void read_cache_use(BlockTimes& times);

  // The steps of the attention block, in order (model specification 2.2, 2.6, 2.5).
  void project_input(const CudaLayer& layer, int64_t n, AttentionUse use);
  void project_query(const CudaLayer& layer, const Batch& batch, bool any_selects);
  void store(int64_t layer, const Batch& batch, const CudaCache& cache);
  void select(int64_t layer, const Batch& batch, const Step& step, const CudaCache& cache);
  void attend(int64_t layer, const Batch& batch, const Step& step, const CudaCache& cache,
              cuda::FloatType type);
  // Those of 2.6 and 2.5, some tokens at a time, or dense attention of a whole tile in the expanded form.
  void attend_in_steps(int64_t layer, const Batch& batch, const CudaCache& cache, bool any_selects);
  [[nodiscard]] ExpandedAttentionShape expanded_shape(const Batch& batch, const CudaCache& cache) const;
  [[nodiscard]] int64_t expanded_heads(const Batch& batch, const CudaCache& cache) const;
  void attend_expanded(int64_t layer, const Batch& batch, const CudaCache& cache, int64_t heads);
  void observe_selection(int64_t layer, const Batch& batch, const Step& step);

  const Model& model_;
  const ModelConfig& config_;
  const CudaModel& weights_;
  const CudaExpertWeights& expert_weights_;
  LayerRange layers_;         // that are computed here
  int64_t pass_;              // tokens, at most
  int64_t whole_layers_ = 0;  // of the model, in this pass: those that all its tokens go through
  int64_t tile_;
  int64_t multiprocessors_;
  cuda::Stream stream_;
  CudaProducts products_;
  CudaArena arena_;
  CudaActivations buffers_;
  std::optional<CudaExperts> experts_;  // where some experts are on the GPU
  std::optional<CudaExpertCache> expert_cache_;
  bool caching_ = false;  // in this pass
  ExpertHandover handover_;
  std::optional<CudaPassExperts> pass_experts_;  // where those or streamed ones meet a pass's tokens at once
  std::optional<CudaPrefill> prefill_;           // where experts are streamed
  bool streaming_ = false;                       // in this pass
  cuda::PinnedBuffer<int32_t> staged_;           // [3, pass]: ids, positions, lengths of the batch
  cuda::PinnedBuffer<float> staged_x_;           // [pass, d_model] of resume(); none when all layers are here
  cuda::Event staged_free_;                      // the copies of what is staged are done
  std::vector<float> host_rows_;                 // of to_host
  int64_t handed_over_;                          // MoE layers whose experts are the CPU's
  bool captures_;                                // single tokens are graphs
  bool replays_ = false;                         // this pass is one
  int64_t unanswered_ = 0;          // MoE layers of this pass that wait, or will wait, for their experts
  std::vector<TokenGraph> graphs_;  // the last one used is the last one
  CudaBlockClock clock_;
  CudaExpertStream::Copied told_;        // by correct_times() so far
  CudaExpertCache::Use told_cache_use_;  // likewise
  CudaProgress progress_;
  CudaCandidates candidates_;
};

}  // namespace sluice
