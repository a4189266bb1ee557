// A row of logits reduced as the GPU does it, by sorting.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "engine/logit_candidates.h"
#include "kernels_cuda/token_weight.h"

namespace sluice::testing {

/// NaN below all. The total counts where it is asked for.
inline LogitCandidates candidates_of(std::span<const float> logits, const CandidateRequest& request) {
  constexpr TokenWeightPowers kPowers = make_token_weight_powers();
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    if (std::isnan(logit(a)) || std::isnan(logit(b))) return !std::isnan(logit(a)) && std::isnan(logit(b));
    return logit(a) > logit(b);
  });
  LogitCandidates result;
  if (request.wants_total) {
    const double factor = token_weight_factor(request.temperature);
    for (const float other : logits) {
      const double below = static_cast<double>(logit(order.front())) - static_cast<double>(other);
      result.total += token_weight(below * factor, kPowers);
    }
  }
  order.resize(std::min(order.size(), static_cast<size_t>(request.count)));
  std::ranges::sort(order);
  for (const int32_t id : order) result.logits.push_back(logit(id));
  result.ids = std::move(order);
  return result;
}

}  // namespace sluice::testing
