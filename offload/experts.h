// The routed experts of the MoE layers: where their weights are, and the computation of one layer for a batch
// of tokens. Knows experts, bytes and workers; nothing of attention.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels_cpu/kernels.h"
#include "offload/workers.h"
#include "quant/base/view.h"
#include "quant/tensor.h"

namespace sluice::offload {

/// One of the three matrices of all experts of a layer, experts outermost.
struct ExpertMatrix {
  quant::WeightView all;    // [experts * stride_rows, cols]
  int64_t stride_rows = 0;  // rows from one expert to the next
  int64_t first_row = 0;    // of the matrix inside an expert's rows (fused gate_up: up starts after gate)
  int64_t rows = 0;
  std::span<const float> scales;  // [experts] second-level NVFP4 scales, or empty

  [[nodiscard]] quant::WeightView expert(int64_t e) const {
    quant::WeightView view = all.rows_from(e * stride_rows + first_row, rows);
    view.scale = scales.empty() ? all.scale : scales[static_cast<size_t>(e)];
    return view;
  }
};

struct ExpertLayer {
  int64_t experts = 0;
  ExpertMatrix gate;  // per expert [d_expert, d_model]
  ExpertMatrix up;    // per expert [d_expert, d_model]
  ExpertMatrix down;  // per expert [d_model, d_expert]
};

/// The router's choice for a batch: per token `used` experts, ascending by id, with the weights of their
/// outputs.
struct Routes {
  MatrixView<const int32_t> ids;    // [n_tokens, used]
  MatrixView<const float> weights;  // [n_tokens, used]
};

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
