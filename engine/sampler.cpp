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

#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr int kWeightBits = 40;
constexpr uint64_t kFullWeight = uint64_t{1} << kWeightBits;

// Top-p looks for its cut in classes of weights: the leading bit and the 4 bits after it.
constexpr int kClassBits = 4;
constexpr size_t kClasses = static_cast<size_t>(kWeightBits + 1) << kClassBits;

// Up to here a heap of the best beats selection.
constexpr int64_t kSmallTopK = 1024;

constexpr double kLn2 = 0.693147180559945309417;
constexpr size_t kSteps = 64;

// e^-x for x from 0 to 1, by 1 - x (1 - x/2 (1 - x/3 (...))); good to 2^-50.
constexpr double series(double x) {
  double sum = 0.0;
  for (int i = 18; i > 0; --i) sum = (1.0 - sum) * x / i;
  return 1.0 - sum;
}

// 2^(kWeightBits - i / kSteps)
constexpr std::array<double, kSteps> make_powers() {
  std::array<double, kSteps> powers{};
  for (size_t i = 0; i < kSteps; ++i) {
    powers[i] = series(static_cast<double>(i) / kSteps * kLn2) * static_cast<double>(kFullWeight);
  }
  return powers;
}
constexpr std::array<double, kSteps> kPowers = make_powers();

// 2^-y for y from 0 to kWeightBits, as a multiple of 2^-kWeightBits: a power of two by shift, the 64ths by
// table, the rest by four terms of the series, which leaves an error of 2^-39. Written out because the C
// library's exp differs between processors in the last bit.
uint64_t power_weight(double y) {
  const auto steps = static_cast<size_t>(y * kSteps);
  const double x = (y - static_cast<double>(steps) / kSteps) * kLn2;
  const double rest = 1.0 - x * (1.0 - x * (1.0 / 2) * (1.0 - x * (1.0 / 3) * (1.0 - x * (1.0 / 4))));
  return static_cast<uint64_t>(rest * kPowers[steps % kSteps]) >> (steps / kSteps);
}

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
  keep_top_p();
  keep_min_p();
  return draw();
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
  const double lowest =
      static_cast<double>(highest) - (kWeightBits * kLn2 + 1.0) * static_cast<double>(params_.temperature);
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (static_cast<double>(logits[i]) >= lowest)
      candidates_.push_back({logits[i], static_cast<int32_t>(i), 0});
  }
}

void Sampler::weigh(float highest) {
  constexpr double kLog2E = 1.44269504088896340736;
  const double scale = kLog2E / static_cast<double>(params_.temperature);
  for (Candidate& candidate : candidates_) {
    const double y = (static_cast<double>(highest) - static_cast<double>(candidate.logit)) * scale;
    candidate.weight = y <= kWeightBits ? power_weight(y) : 0;
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

void Sampler::keep_top_p() {
  if (params_.top_p >= 1.0F) return;
  std::array<uint64_t, kClasses> mass{};
  uint64_t total = 0;
  for (const Candidate& candidate : candidates_) {
    mass[class_of(candidate.weight)] += candidate.weight;
    total += candidate.weight;
  }
  const auto wanted = static_cast<uint64_t>(static_cast<double>(params_.top_p) * static_cast<double>(total));
  // The class in which the mass of the best reaches `wanted`, then the candidate in it.
  uint64_t sum = 0;
  size_t last_class = kClasses - 1;
  while (last_class > 0 && sum + mass[last_class] < wanted) sum += mass[last_class--];
  while (mass[last_class] == 0) --last_class;
  ranking_.clear();
  for (const Candidate& candidate : candidates_) {
    if (class_of(candidate.weight) == last_class) ranking_.push_back(candidate);
  }
  std::sort(ranking_.begin(), ranking_.end(), better);
  size_t last = 0;
  sum += ranking_[0].weight;
  while (sum < wanted && last + 1 < ranking_.size()) sum += ranking_[++last].weight;
  cut_after(ranking_[last]);
}

void Sampler::keep_min_p() {
  const double least = static_cast<double>(params_.min_p) * static_cast<double>(kFullWeight);
  if (least <= 1.0) return;
  std::erase_if(candidates_, [least](const Candidate& candidate) {
    return static_cast<double>(candidate.weight) < least;
  });
}

int32_t Sampler::draw() {
  uint64_t total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
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
