// What reads the cache: index scores, selection and absorbed attention of a batch's queries (model
// specification 2.6 steps 7 and 8, 2.5 steps 2 and 3), split over the workers.
//
// Many tokens go to the workers one by one. Few tokens are shared: the keys of the scores, then the heads and
// the pieces of the rows (kernels_cpu/mla.h). Both ways give the same bits.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "engine/backends/backend.h"
#include "engine/model_config.h"
#include "kernels_cpu/kernels_cpu.h"
#include "offload/workers.h"

namespace sluice {

class LatentAttention {
 public:
  /// References are kept.
  LatentAttention(const ModelConfig& config, const cpu::Kernels& kernels, offload::Workers& workers);

  /// Rows are the batch's tokens. The index part is read only where a token selects.
  struct Queries {
    MatrixView<const float> heads;          // [n_tokens, heads * d_cache], absorbed
    MatrixView<const float> index_heads;    // [n_tokens, index_heads * d_index]
    MatrixView<const float> index_weights;  // [n_tokens, index_heads], scaled
  };

  /// True when the token of this position attends to a choice of positions and not to all up to its own.
  [[nodiscard]] bool selects(const Batch& batch, int64_t position) const;

  /// out [n_tokens, heads * d_latent] = softmax-weighted latents. The batch's rows are in its cache, a
  /// CpuCache.
  void attend(int64_t layer, const Batch& batch, const Queries& queries, MatrixView<float> out);

 private:
  struct WorkerScratch {
    std::vector<float> floats;      // scores or attention
    std::vector<float> scores;      // [kMaxIndexQueries, capacity]
    std::vector<int32_t> top_k;     // scratch of top_k
    std::vector<int32_t> selected;  // [kMaxIndexQueries, index_top_k]
  };
  /// attend()'s arguments.
  struct Call {
    int64_t layer;
    const Batch& batch;
    const CpuCache& cache;
    const Queries& queries;
    MatrixView<float> out;
  };
  /// Tokens [begin, begin + count), count <= kMaxIndexQueries, whose scores and selections lie in one
  /// scratch.
  struct Block {
    int64_t begin;
    int64_t count;
  };

  void reserve(const Batch& batch);
  void attend_alone(const Call& call, const Block& block, WorkerScratch& scratch);
  void attend_together(const Call& call, const Block& block);
  // Scores of keys [key_begin, key_end) for the block's tokens, into home.scores.
  void score_keys(const Call& call, const Block& block, int64_t key_begin, int64_t key_end,
                  WorkerScratch& home, std::span<float> floats);
  // Positions that token t attends to, ascending, or empty for all up to its own.
  std::span<const int32_t> select(const Call& call, const Block& block, int64_t t, WorkerScratch& home,
                                  std::span<int32_t> top_k);
  [[nodiscard]] bool any_selects(const Call& call, const Block& block) const;
  [[nodiscard]] cpu::MlaQuery mla_query(const Call& call, int64_t t, std::span<const int32_t> selected) const;
  void attend_shared(const Call& call, int64_t t, std::span<const int32_t> selected);
  [[nodiscard]] int64_t heads_per_task(int64_t pieces) const;
  [[nodiscard]] MatrixView<float> output(const Call& call, int64_t t) const;
  [[nodiscard]] cpu::MlaPartial partial(const Call& call, int64_t t, int64_t piece);

  const ModelConfig& config_;
  const cpu::Kernels& kernels_;
  offload::Workers& workers_;
  std::vector<WorkerScratch> scratch_;  // one per worker
  // Of one token's pieces: [kMaxMlaPieces, heads], and the outputs of all but the first, which is the
  // result's.
  std::vector<float> piece_max_;
  std::vector<float> piece_sum_;
  std::vector<float> piece_out_;  // [kMaxMlaPieces - 1, heads, d_latent]
  std::mutex observer_mutex_;
};

}  // namespace sluice
