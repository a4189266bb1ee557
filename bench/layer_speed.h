// One MoE layer of DeepSeek-V3.2's shape as the engine computes it for one token: experts in the store, the
// team of workers, forks and joins included. Beside it the loop that reads the same number of bytes.
#pragma once

#include <cstdint>
#include <random>

#include "bench/panel_speed.h"
#include "offload/expert_store.h"
#include "offload/expert_team.h"
#include "offload/workers.h"

namespace sluice::bench {

class LayerSpeed {
 public:
  /// One layer of `experts` experts of this type with random weights. Keeps a reference to `workers`.
  LayerSpeed(quant::DType dtype, int64_t experts, offload::Workers& workers);

  /// One token through eight experts, other ones each time: bytes of weights per second.
  Share one_token(int64_t repeats);

 private:
  offload::Workers& workers_;
  offload::ExpertStore store_;
  offload::ExpertTeam team_;
  int64_t experts_;
  std::mt19937_64 random_{7};
};

}  // namespace sluice::bench
