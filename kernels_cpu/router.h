// The sigmoid router with selection bias and group limit (model formula 2.8, steps 1-5).
#pragma once

#include <cstdint>
#include <span>

namespace sluice::cpu {

struct RouterParams {
  int64_t experts = 256;
  int64_t experts_used = 8;
  int64_t groups = 8;  // divides experts
  int64_t groups_used = 4;
  bool normalize = true;  // divide the chosen weights by their sum
  float scale = 2.5F;
};

/// Floats of scratch for route_token.
int64_t router_scratch_floats(const RouterParams& params);

/// Chooses experts for one token. logits [experts] = router product; bias [experts] or empty.
/// ids and weights [experts_used], ascending by expert id. Ties: smaller id. The bias decides the choice
/// only.
void route_token(const RouterParams& params, std::span<const float> logits, std::span<const float> bias,
                 std::span<int32_t> ids, std::span<float> weights, std::span<float> scratch);

}  // namespace sluice::cpu
