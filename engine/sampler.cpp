// Sampling in integers: each candidate gets a fixed-point weight, so sums do not depend on their order and
// the choice is the same on every machine. A cut (top-k, top-p) finds the last candidate that stays and drops
// all after it, which needs no full sort.
#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels_cuda/token_weight.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr TokenWeightPowers kPowers = make_token_weight_powers();

// Top-p looks for its cut in classes of weights: the leading bit and the 4 bits after it.
constexpr int kClassBits = 4;
constexpr size_t kClasses = static_cast<size_t>(kTokenWeightBits + 1) << kClassBits;

// Up to here a heap of the best beats selection.
constexpr int64_t kSmallTopK = 1024;

constexpr double kLn2 = 0.693147180559945309417;

// Grows with the weight; the weight is not 0.
size_t class_of(uint64_t weight) {
  const int high = static_cast<int>(std::bit_width(weight)) - 1;
  const uint64_t mantissa =
      high >= kClassBits ? weight >> (high - kClassBits) : weight << (kClassBits - high);
  return (static_cast<size_t>(high) << kClassBits) + static_cast<size_t>(mantissa & ((1U << kClassBits) - 1));
}

void require(bool holds, std::string_view flag, std::string_view range, double value) {
  if (!holds) throw Error(flag, range, fmt::format("{}", value));
}

// The largest value; NaN does not count. In lanes, so that the compiler can use vector instructions.
float largest(std::span<const float> values) {
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> lanes;
  lanes.fill(-std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
  }
  float result = *std::max_element(lanes.begin(), lanes.end());
  for (; i < values.size(); ++i) result = std::max(result, values[i]);
  return result;
}

// `largest`, with an Error on NaN and infinities that leave nothing to choose.
float highest_logit(std::span<const float> logits) {
  if (logits.empty()) throw Error("logits", "at least one", "none");
  const auto is_bad = [](float logit) { return !(logit <= std::numeric_limits<float>::max()); };
  size_t bad = 0;
  for (const float logit : logits) bad += static_cast<size_t>(is_bad(logit));
  if (bad > 0) {
    const auto first = std::find_if(logits.begin(), logits.end(), is_bad);
    throw Error("logits", "numbers", fmt::format("{} for token {}", *first, first - logits.begin()));
  }
  const float highest = largest(logits);
  if (highest == -std::numeric_limits<float>::infinity()) {
    throw Error("logits", "a finite one", "-inf for every token");
  }
  return highest;
}

}  // namespace

void SamplingParams::check() const {
  const auto finite = [](float x) { return std::isfinite(x); };
  require(finite(temperature) && temperature >= 0, "--temp", "a number from 0 up", temperature);
  require(top_k >= 0, "--top-k", "0 (off) or more", static_cast<double>(top_k));
  require(top_p >= 0 && top_p <= 1, "--top-p", "a number from 0 to 1", top_p);
  require(min_p >= 0 && min_p <= 1, "--min-p", "a number from 0 to 1", min_p);
  require(finite(repeat_penalty) && repeat_penalty > 0, "--repeat-penalty", "a number above 0",
          repeat_penalty);
  require(repeat_last_n >= -1, "--repeat-last-n", "-1 (all), 0 (off) or more",
          static_cast<double>(repeat_last_n));
}

Sampler::Sampler(const SamplingParams& params) : params_(params), random_(params.seed) {
  params_.check();
}

bool Sampler::better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history) {
  logits = penalized(logits, history);
  const float highest = highest_logit(logits);
  if (params_.temperature == 0) return argmax(logits);
  collect(logits, highest);
  keep_top_k();
  weigh(highest);
  cut(total_weight(), 0);
  return draw();
}

std::optional<CandidateRequest> Sampler::request() const {
  const bool penalizes = params_.repeat_penalty != 1.0F && params_.repeat_last_n != 0;
  if (penalizes) return {};
  if (params_.temperature == 0) return CandidateRequest{.count = 1, .temperature = 0, .wants_total = false};
  if (params_.top_k > 0) {
    if (params_.top_k > kMostCandidateTokens) return {};
    return CandidateRequest{.count = params_.top_k, .temperature = params_.temperature, .wants_total = false};
  }
  if (params_.top_p >= 1.0F && least_of_min_p() <= 1.0) return {};
  return CandidateRequest{
      .count = kMostCandidateTokens, .temperature = params_.temperature, .wants_total = true};
}

// With a top-k these are the tokens that it keeps. Without one the others count by their total; they weigh no
// more than the last of these, or a little more where the order of weights is not that of logits.
std::optional<int32_t> Sampler::sample(const LogitCandidates& candidates) {
  if (params_.temperature == 0) return candidates.ids.front();
  candidates_.clear();
  for (size_t i = 0; i < candidates.ids.size(); ++i) {
    candidates_.push_back({candidates.logits[i], candidates.ids[i], 0});
  }
  weigh(*std::ranges::max_element(candidates.logits));
  const uint64_t here = total_weight();
  const uint64_t total = params_.top_k > 0 ? here : candidates.total;
  const uint64_t least = std::ranges::min_element(candidates_, {}, &Candidate::weight)->weight;
  if (!cut(total, total == here ? 0 : least + kTokenWeightSlack)) return {};
  return draw();
}

bool Sampler::cut(uint64_t total, uint64_t least) {
  if (params_.top_p < 1.0F) {
    if (!keep_top_p(total, least)) return false;
  } else if (least > 0 && least_of_min_p() <= static_cast<double>(least)) {
    return false;
  }
  keep_min_p();
  return true;
}

std::span<const float> Sampler::penalized(std::span<const float> logits, std::span<const int32_t> history) {
  if (params_.repeat_penalty == 1.0F || params_.repeat_last_n == 0) return logits;
  if (params_.repeat_last_n > 0 && static_cast<uint64_t>(params_.repeat_last_n) < history.size()) {
    history = history.last(static_cast<size_t>(params_.repeat_last_n));
  }
  penalized_.assign(logits.begin(), logits.end());
  for (const int32_t id : history) {
    const auto at = static_cast<size_t>(id);
    if (id < 0 || at >= logits.size()) {
      throw Error("token history", fmt::format("ids below {}", logits.size()), fmt::format("{}", id));
    }
    // From the logit as it was, so that an id that comes twice counts once.
    const float logit = logits[at];
    penalized_[at] = logit > 0 ? logit / params_.repeat_penalty : logit * params_.repeat_penalty;
  }
  return penalized_;
}

void Sampler::collect(std::span<const float> logits, float highest) {
  // Whatever is further below has weight 0; the margin of 1 leaves the decision to weigh().
  const double lowest = static_cast<double>(highest) -
                        (kTokenWeightBits * kLn2 + 1.0) * static_cast<double>(params_.temperature);
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (static_cast<double>(logits[i]) >= lowest)
      candidates_.push_back({logits[i], static_cast<int32_t>(i), 0});
  }
}

void Sampler::weigh(float highest) {
  const double factor = token_weight_factor(params_.temperature);
  for (Candidate& candidate : candidates_) {
    const double below = static_cast<double>(highest) - static_cast<double>(candidate.logit);
    candidate.weight = token_weight(below * factor, kPowers);
  }
  std::erase_if(candidates_, [](const Candidate& candidate) { return candidate.weight == 0; });
}

void Sampler::cut_after(const Candidate& last) {
  std::erase_if(candidates_, [last](const Candidate& candidate) { return better(last, candidate); });
}

void Sampler::keep_top_k() {
  const auto count = static_cast<int64_t>(candidates_.size());
  if (params_.top_k == 0 || params_.top_k >= count) return;
  ranking_ = candidates_;
  const auto last = ranking_.begin() + (params_.top_k - 1);
  if (params_.top_k <= kSmallTopK) {
    std::partial_sort(ranking_.begin(), last + 1, ranking_.end(), better);
  } else {
    std::nth_element(ranking_.begin(), last, ranking_.end(), better);
  }
  cut_after(*last);
}

uint64_t Sampler::total_weight() const {
  uint64_t total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  return total;
}

bool Sampler::keep_top_p(uint64_t total, uint64_t least) {
  std::array<uint64_t, kClasses> mass{};
  for (const Candidate& candidate : candidates_) mass[class_of(candidate.weight)] += candidate.weight;
  const auto wanted = static_cast<uint64_t>(static_cast<double>(params_.top_p) * static_cast<double>(total));
  // The class in which the mass of the best reaches `wanted`, then the candidate in it.
  uint64_t sum = 0;
  size_t last_class = kClasses - 1;
  while (last_class > 0 && sum + mass[last_class] < wanted) sum += mass[last_class--];
  const auto is_near = [&] { return least > 0 && last_class <= class_of(least); };
  if (is_near()) return false;  // before classes without a token are passed: there may be none with one
  while (mass[last_class] == 0) --last_class;
  if (is_near()) return false;
  ranking_.clear();
  for (const Candidate& candidate : candidates_) {
    if (class_of(candidate.weight) == last_class) ranking_.push_back(candidate);
  }
  std::sort(ranking_.begin(), ranking_.end(), better);
  size_t last = 0;
  sum += ranking_[0].weight;
  while (sum < wanted && last + 1 < ranking_.size()) sum += ranking_[++last].weight;
  cut_after(ranking_[last]);
  return true;
}

double Sampler::least_of_min_p() const {
  return static_cast<double>(params_.min_p) * static_cast<double>(kFullTokenWeight);
}

void Sampler::keep_min_p() {
  const double least = least_of_min_p();
  if (least <= 1.0) return;
  std::erase_if(candidates_, [least](const Candidate& candidate) {
    return static_cast<double>(candidate.weight) < least;
  });
}

int32_t Sampler::draw() {
  const uint64_t total = total_weight();
  // The upper 53 bits as a number in [0, 1); then the candidate into whose share of the total it falls.
  const double uniform = static_cast<double>(random_() >> 11U) * 0x1p-53;
  auto left = static_cast<uint64_t>(uniform * static_cast<double>(total));
  for (const Candidate& candidate : candidates_) {
    if (left < candidate.weight) return candidate.id;
    left -= candidate.weight;
  }
  return candidates_.back().id;  // the product was rounded up to `total`
}

int32_t argmax(std::span<const float> logits) {
  const auto first = std::find(logits.begin(), logits.end(), largest(logits));
  return first == logits.end() ? 0 : static_cast<int32_t>(first - logits.begin());
}

}  // namespace sluice
