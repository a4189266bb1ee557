// The routed experts of chosen layers in the memory of a GPU.
#pragma once

#include <cstdint>
#include <stop_token>
#include <vector>

#include "engine/backends/cuda_arena.h"
#include "engine/model.h"
#include "kernels_cuda/panel_gemm.h"
#include "offload/workers.h"

namespace sluice {

/// Of one layer; `first.rows` are an expert's. Experts lie one after the other.
struct CudaExpertLayer {
  cuda::ExpertPanels gate;  // each [d_expert, d_model]
  cuda::ExpertPanels up;
  cuda::ExpertPanels down;  // each [d_model, d_expert]
};

class CudaExpertWeights {
 public:
  /// Packs with all workers and copies to this thread's GPU, which must have bytes_needed() free. `layers`
  /// are MoE layers, ascending. Throws Error, and LoadStopped when `stop` was requested.
  CudaExpertWeights(const Model& model, const std::vector<int64_t>& layers, offload::Workers& workers,
                    const std::stop_token& stop);

  /// What it would allocate.
  static int64_t bytes_needed(const Model& model, const std::vector<int64_t>& layers);

  /// Null for a layer that is not here.
  [[nodiscard]] const CudaExpertLayer* layer(int64_t layer) const;
  [[nodiscard]] int64_t bytes() const { return arena_.taken(); }

 private:
  CudaArena arena_;
  std::vector<int64_t> layers_;
  std::vector<CudaExpertLayer> experts_;  // [layers_]
};

}  // namespace sluice
