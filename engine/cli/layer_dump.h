// Writes what every layer computed to .npy files of one directory, as the forward pass goes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/cli/npy.h"
#include "engine/forward_observer.h"
#include "engine/runtime.h"

namespace sluice::cli {

/// Files of a prompt of n tokens; L counts layers from 0:
///   embed.npy           f32 [n, d_model]   token embeddings
///   attnL.npy           f32 [n, d_model]   attention output, before it is added to the residual stream
///   layerL.npy          f32 [n, d_model]   residual stream after the layer
///   norm.npy            f32 [n, d_model]   after the final norm
///   selectedL.npy       i32 [n, min(top-k, n)]  positions attended to, ascending, then -1; sparse attention
///   only index_scoresL.npy   f32 [n]            the indexer's scores for the last token; when the indexer
///   ran for it expertsL.npy        i32 [n, used]      ids of the chosen experts, ascending; MoE layers only
///   expert_weightsL.npy f32 [n, used]      their weights
class LayerDump : public ForwardObserver {
 public:
  /// Makes the directory when it is not there. `n_tokens` are all tokens that will be computed, in order,
  /// from position 0. Throws Error.
  LayerDump(std::filesystem::path directory, const Runtime& runtime, int64_t n_tokens);

  void embedding(int64_t first_position, MatrixView<const float> x) override;
  void attention_output(int64_t layer, int64_t first_position, MatrixView<const float> output) override;
  void selection(int64_t layer, int64_t position, std::span<const int32_t> selected,
                 std::span<const float> scores) override;
  void routes(int64_t layer, int64_t first_position, const offload::Routes& routes) override;
  void layer_output(int64_t layer, int64_t first_position, MatrixView<const float> x) override;
  void final_norm(int64_t first_position, MatrixView<const float> x) override;

  /// All files appear. Without it none does.
  void commit();

 private:
  void append(const std::string& name, MatrixView<const float> rows);
  void append(const std::string& name, MatrixView<const int32_t> rows);
  void flush_selections(int64_t layer, int64_t first_position, int64_t count);

  std::filesystem::path directory_;
  int64_t n_tokens_;
  int64_t selected_width_;  // 0: dense attention
  std::map<std::string, NpyFile<float>> floats_;
  std::map<std::string, NpyFile<int32_t>> integers_;
  std::map<int64_t, std::vector<int32_t>> selections_;  // of the layer being computed, by position
};

}  // namespace sluice::cli
