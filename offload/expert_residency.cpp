#include "offload/expert_residency.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "quant/base/error.h"

namespace sluice::offload {
namespace {

constexpr int kRescaleExponent = 256;  // weights up to 2^256, far from what a double ends at

void check(const ResidencyShape& shape) {
  if (shape.layers <= 0 || shape.experts <= 0 ||
      shape.layers > std::numeric_limits<int32_t>::max() / shape.experts) {
    throw Error("expert residency", "layers and experts above 0, together below 2^31",
                fmt::format("{} layers of {}", shape.layers, shape.experts));
  }
  if (shape.slots < 0 || shape.slots > shape.layers * shape.experts) {
    throw Error("expert residency", fmt::format("0 to {} slots", shape.layers * shape.experts),
                fmt::format("{}", shape.slots));
  }
}

void check(const ResidencyRules& rules) {
  if (!std::isfinite(rules.half_life) || rules.half_life < 1) {
    throw Error("expert residency", "a half-life of at least one token", fmt::format("{}", rules.half_life));
  }
  for (const double value : {rules.copy_hits, rules.deviations}) {
    if (!std::isfinite(value) || value < 0) {
      throw Error("expert residency", "hits for a copy and deviations of at least 0",
                  fmt::format("{}", value));
    }
  }
}

}  // namespace

ExpertResidency::ExpertResidency(const ResidencyShape& shape, const ResidencyRules& rules)
    : shape_(shape), rules_(rules), growth_(std::exp2(1 / rules.half_life)), free_slots_(shape.slots) {
  check(shape);
  check(rules);
  const auto all = static_cast<size_t>(shape.layers * shape.experts);
  counts_.resize(all);
  states_.resize(all, State::kAbsent);
  by_count_.reserve(static_cast<size_t>(shape.slots));
}

size_t ExpertResidency::number(int64_t layer, int64_t expert) const {
  assert(layer >= 0 && layer < shape_.layers && expert >= 0 && expert < shape_.experts);
  return static_cast<size_t>(layer * shape_.experts + expert);
}

bool ExpertResidency::resident(int64_t layer, int64_t expert) const {
  return states_[number(layer, expert)] == State::kResident;
}

double ExpertResidency::decayed_count(int64_t layer, int64_t expert) const {
  return counts_[number(layer, expert)] * growth_ / weight_;  // weight_ is the next token's already
}

void ExpertResidency::use(int64_t layer, std::span<const int32_t> experts) {
  for (const int32_t expert : experts) {
    if (expert < 0) continue;
    const size_t at = number(layer, expert);
    counts_[at] += weight_;
    if (states_[at] == State::kAbsent) {
      states_[at] = State::kCandidate;
      candidates_.push_back(static_cast<int32_t>(at));
    }
  }
}

std::span<const ExpertReplacement> ExpertResidency::end_token(int64_t most) {
  assert(most >= 0);
  begun_.clear();
  const auto looked_at =
      static_cast<std::ptrdiff_t>(std::min(most, static_cast<int64_t>(candidates_.size())));
  const auto end = candidates_.begin() + looked_at;
  std::partial_sort(candidates_.begin(), end, candidates_.end(), [&](int32_t a, int32_t b) {
    const double count_a = counts_[static_cast<size_t>(a)];
    const double count_b = counts_[static_cast<size_t>(b)];
    return count_a != count_b ? count_a > count_b : a < b;
  });
  // Those after one that is not worth it are used less, and the next slot's expert more.
  for (auto in = candidates_.begin(); in != end && begin(*in); ++in) {
  }
  for (const int32_t candidate : candidates_) {
    State& state = states_[static_cast<size_t>(candidate)];
    if (state == State::kCandidate) state = State::kAbsent;
  }
  candidates_.clear();
  weight_ *= growth_;
  if (weight_ >= std::ldexp(1.0, kRescaleExponent)) rescale();
  return begun_;
}

bool ExpertResidency::begin(int32_t in) {
  ExpertReplacement replacement{.in = in};
  if (free_slots_ > 0) {
    --free_slots_;
  } else {
    if (by_count_.empty()) return false;  // no slots, or all are being written
    const Entry out = lowest();
    if (!worth_it(counts_[static_cast<size_t>(in)] / weight_, out.count / weight_)) return false;
    replacement.out = out.expert;
    states_[static_cast<size_t>(out.expert)] = State::kAbsent;
    take_lowest();
  }
  states_[static_cast<size_t>(in)] = State::kComing;
  begun_.push_back(replacement);
  return true;
}

void ExpertResidency::arrived(int32_t in) {
  assert(states_[static_cast<size_t>(in)] == State::kComing);
  states_[static_cast<size_t>(in)] = State::kResident;
  insert(in);
}

bool ExpertResidency::worth_it(double in, double out) const {
  return in - out >= rules_.copy_hits + rules_.deviations * std::sqrt((in + out) / 2);
}

// The standard's heaps have the greatest on top, this one the lowest.
bool ExpertResidency::higher(const Entry& a, const Entry& b) {
  return a.count != b.count ? a.count > b.count : a.expert > b.expert;
}

ExpertResidency::Entry ExpertResidency::lowest() {
  while (by_count_.front().count != counts_[static_cast<size_t>(by_count_.front().expert)]) {
    const int32_t expert = by_count_.front().expert;
    take_lowest();
    insert(expert);
  }
  return by_count_.front();
}

void ExpertResidency::take_lowest() {
  std::pop_heap(by_count_.begin(), by_count_.end(), higher);
  by_count_.pop_back();
}

void ExpertResidency::insert(int32_t expert) {
  by_count_.push_back({.count = counts_[static_cast<size_t>(expert)], .expert = expert});
  std::push_heap(by_count_.begin(), by_count_.end(), higher);
}

// Once in 256 half-lives. Powers of two: no rounding, but that the oldest counts become 0.
void ExpertResidency::rescale() {
  weight_ = std::ldexp(weight_, -kRescaleExponent);
  for (double& count : counts_) count = std::ldexp(count, -kRescaleExponent);
  for (Entry& entry : by_count_) entry.count = counts_[static_cast<size_t>(entry.expert)];
  std::make_heap(by_count_.begin(), by_count_.end(), higher);
}

}  // namespace sluice::offload
