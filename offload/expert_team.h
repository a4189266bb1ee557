// The routed experts of one MoE layer, computed by the workers where the weights lie.
//
//   quantize f                                     by the caller for few tokens
//   loop over (expert, 32 rows of gate and up)     two panels each; SwiGLU; those 32 hidden values quantized
//   loop over some panels of down                  experts added in ascending id
//
// Every loop is a fork and a join, so a decoded token waits twice per layer. On several NUMA nodes each
// node's workers compute the rows that are its share and a partial sum of down; the sums are added at the
// end. Results do not depend on the number of workers, nor, but for AMX (docs/kernels.md), on how tokens are
// divided into batches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "offload/node_loop.h"
#include "offload/panel_product.h"
#include "offload/route_groups.h"
#include "offload/routes.h"

namespace sluice::offload {

struct ExpertTeamOptions {
  int64_t d_model = 0;
  int64_t d_expert = 0;
  int64_t used = 0;        // experts per token
  int64_t max_tokens = 0;  // per call
  ExpertArithmetic arithmetic = ExpertArithmetic::kInt8;
  cpu::Isa isa = cpu::Isa::kScalar;
};

/// Owns the working memory for up to `max_tokens` tokens.
class ExpertTeam {
 public:
  /// Keeps references to `weights` and `workers`.
  ExpertTeam(const ExpertWeights& weights, const ExpertTeamOptions& options, Workers& workers);

  /// y[t] += sum_e weight[t][e] * down_e(silu(gate_e f[t]) * up_e f[t]), experts added in ascending id, those
  /// with ids below 0 left out: a token with no others keeps its y, and its f is not read.
  /// f and y [n_tokens <= max_tokens, d_model]; they must not overlap. Allocates nothing.
  void add(int64_t layer, MatrixView<const float> f, const Routes& routes, MatrixView<float> y);

 private:
  /// One call of add().
  struct Batch {
    int64_t number = 0;
    int64_t layer = 0;
    MatrixView<const float> f;
    MatrixView<const int32_t> ids;
    MatrixView<float> y;
    bool up_reads_gates_input = false;  // both are int8 in the same form
    bool one_input = false;             // that, or both float32

    /// Whether any of the token's choices is computed here.
    [[nodiscard]] bool takes(int64_t token) const {
      return std::ranges::any_of(ids.row(token), [](int32_t id) { return id >= 0; });
    }
  };
  /// Working memory of one worker.
  struct Scratch {
    AlignedVector<std::byte> panels;  // 4 panels: of gate and up, two each
    Int8Rows gate_codes{0};           // tokens of one expert, gathered: [tile, d_model]
    Int8Rows up_codes{0};
    AlignedVector<float> values;    // the same, float32
    AlignedVector<float> products;  // of two panels of gate and two of up: [4][tile, 16]
    AlignedVector<float> hidden;    // [tile, 32]
    std::vector<float> matmul;
    int64_t gathered_batch = -1;  // what is gathered: tokens of slots from here on
    int64_t gathered_slot = -1;
  };
  /// The hidden vectors of one node: its columns of every slot, int8 or float32 as the layer's down wants.
  struct Hidden {
    Int8Rows codes{0};
    AlignedVector<float> values;
  };
  struct Inputs {
    Activations gate;
    Activations up;
  };

  void allocate(const ExpertTeamOptions& options);
  void quantize_input(Batch& batch);
  Inputs inputs(const Batch& batch, int64_t first_slot, int64_t n, Scratch& scratch) const;
  void gather(const Batch& batch, int64_t first_slot, int64_t n, Scratch& scratch) const;
  void gate_up(const Batch& batch, int64_t node, int64_t expert, int64_t unit, Scratch& scratch);
  void multiply_gate_up(const Batch& batch, std::span<const PanelProduct::Operand> weights,
                        int64_t first_slot, int64_t n, Scratch& scratch) const;
  void keep_hidden(const Batch& batch, int64_t node, int64_t first_slot, int64_t n, int64_t unit,
                   const Scratch& scratch);
  [[nodiscard]] Activations hidden(const Batch& batch, int64_t node, int64_t first_slot, int64_t n) const;
  void down(const Batch& batch, int64_t node, int64_t first_panel, int64_t panels, Scratch& scratch);
  void add_down_panel(const Batch& batch, const ExpertPanel& which, MatrixView<float> sum, Scratch& scratch);
  [[nodiscard]] MatrixView<float> sums(const Batch& batch, int64_t node);
  void add_partial_sums(const Batch& batch);

  const ExpertWeights& weights_;
  Workers& workers_;
  PanelProduct product_;
  NodeLoop loop_;
  int64_t d_model_;
  int64_t tile_;  // tokens multiplied at a time, so that scratch does not grow with the batch
  RouteGroups groups_;
  int64_t batches_ = 0;
  Int8Rows gate_input_{0};        // [n_tokens, d_model]
  Int8Rows up_input_{0};          // [n_tokens, d_model], where up's form is not gate's
  std::vector<Hidden> hidden_;    // [nodes]
  AlignedVector<float> partial_;  // [nodes - 1, max_tokens, d_model]
  int64_t max_tokens_;
  std::vector<Scratch> scratch_;  // [workers]
  std::vector<int64_t> counts_;   // [nodes]: of the loop that runs
};

}  // namespace sluice::offload
