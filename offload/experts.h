// The routed experts of the MoE layers: where their weights are, and the computation of one layer for a batch
// of tokens. Knows experts, bytes and workers; nothing of attention.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels_cpu/kernels.h"
#include "offload/expert_layer.h"
#include "offload/routes.h"
#include "offload/workers.h"
#include "quant/base/view.h"
#include "quant/tensor.h"

namespace sluice::offload {

/// Computes routed experts on the CPU. Owns the working memory for up to `max_tokens` tokens.
class Experts {
 public:
  /// `layers` index by model layer (dense layers hold an empty ExpertLayer). Views and references are kept.
  Experts(std::span<const ExpertLayer> layers, int64_t d_model, int64_t d_expert, int64_t used,
          int64_t max_tokens, const cpu::Kernels& kernels, Workers& workers);

  /// y[t] += sum_e weight[t][e] * down_e(silu(gate_e f[t]) * up_e f[t]), experts added in ascending id.
  /// f and y [n_tokens <= max_tokens, d_model]; they must not overlap. Each weight row is decoded once per
  /// batch.
  void add(int64_t layer, MatrixView<const float> f, const Routes& routes, MatrixView<float> y);

 private:
  struct Slot {
    int32_t token;
    float weight;
  };
  void group_by_expert(int64_t experts, const Routes& routes);
  void gate_up(const ExpertLayer& layer, int64_t expert, int64_t row_begin, int64_t row_end,
               MatrixView<const float> f, std::span<float> scratch);
  void down(const ExpertLayer& layer, int64_t row_begin, int64_t row_end, MatrixView<float> y,
            std::span<float> scratch);

  std::span<const ExpertLayer> layers_;
  int64_t d_model_;
  int64_t d_expert_;
  const cpu::Kernels& kernels_;
  Workers& workers_;
  std::vector<int64_t>
      first_slot_;               // [experts + 1]: slots of expert e are [first_slot_[e], first_slot_[e + 1])
  std::vector<int32_t> active_;  // experts with at least one token, ascending
  std::vector<Slot> slots_;      // [n_tokens * used], grouped by expert
  std::vector<float> hidden_;    // [n_tokens * used, d_expert]: silu(gate) * up
  std::vector<std::vector<float>> scratch_;  // one per worker
};

}  // namespace sluice::offload
