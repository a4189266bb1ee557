// The sigmoid router (model formula 2.8, steps 1-5).
#include "kernels_cpu/router.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

namespace sluice::cpu {
namespace {

constexpr float kTaken = -std::numeric_limits<float>::infinity();

/// Orders candidates whatever the logits hold: a NaN or -infinity is worse than any other score but can be
/// chosen.
float comparable(float score) {
  constexpr float kWorst = std::numeric_limits<float>::lowest();
  return score > kWorst ? score : kWorst;
}

/// The position of the largest value, the first of equals.
size_t largest(std::span<const float> values) {
  return static_cast<size_t>(std::ranges::max_element(values) - values.begin());
}

/// The sum of the two largest values of a group (of the one, when it is alone).
float group_score(std::span<const float> group) {
  float first = kTaken;
  float second = kTaken;
  for (const float value : group) {
    if (value > first) {
      second = first;
      first = value;
    } else if (value > second) {
      second = value;
    }
  }
  return group.size() == 1 ? first : first + second;
}

/// Takes all experts outside the best groups out of the choice.
void limit_groups(const RouterParams& params, std::span<float> choice, std::span<float> group_scores) {
  const auto size = static_cast<size_t>(params.experts / params.groups);
  for (size_t g = 0; g < group_scores.size(); ++g) {
    group_scores[g] = comparable(group_score(choice.subspan(g * size, size)));
  }
  // What is left in group_scores after the best are taken are the groups to drop.
  for (int64_t i = 0; i < params.groups_used; ++i) {
    group_scores[largest(group_scores)] = kTaken;
  }
  for (size_t g = 0; g < group_scores.size(); ++g) {
    if (group_scores[g] != kTaken) {
      std::ranges::fill(choice.subspan(g * size, size), kTaken);
    }
  }
}

}  // namespace

int64_t router_scratch_floats(const RouterParams& params) {
  return 2 * params.experts + params.groups;
}

void route_token(const RouterParams& params, std::span<const float> logits, std::span<const float> bias,
                 std::span<int32_t> ids, std::span<float> weights, std::span<float> scratch) {
  const auto experts = static_cast<size_t>(params.experts);
  const auto used = static_cast<size_t>(params.experts_used);
  assert(params.groups >= 1 && params.experts % params.groups == 0 && params.groups_used <= params.groups);
  assert(params.experts_used <= params.experts / params.groups * params.groups_used);
  assert(logits.size() == experts && (bias.empty() || bias.size() == experts));
  assert(ids.size() == used && weights.size() == used);
  assert(static_cast<int64_t>(scratch.size()) >= router_scratch_floats(params));
  const std::span<float> scores = scratch.subspan(0, experts);
  const std::span<float> choice = scratch.subspan(experts, experts);
  for (size_t e = 0; e < experts; ++e) {
    scores[e] = 1.0F / (1.0F + std::exp(-logits[e]));
    choice[e] = comparable(bias.empty() ? scores[e] : scores[e] + bias[e]);
  }
  if (params.groups_used < params.groups) {
    limit_groups(params, choice, scratch.subspan(2 * experts, static_cast<size_t>(params.groups)));
  }
  for (int32_t& id : ids) {
    const size_t best = largest(choice);
    id = static_cast<int32_t>(best);
    choice[best] = kTaken;
  }
  std::ranges::sort(ids);
  float sum = 0.0F;
  for (const int32_t id : ids) {
    sum += scores[static_cast<size_t>(id)];
  }
  // The tiny term keeps a token whose every score underflowed at weight 0 instead of NaN.
  const float factor = params.normalize ? params.scale / (sum + 1e-20F) : params.scale;
  for (size_t i = 0; i < used; ++i) {
    weights[i] = scores[static_cast<size_t>(ids[i])] * factor;
  }
}

}  // namespace sluice::cpu
