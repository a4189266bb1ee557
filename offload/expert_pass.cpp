#include "offload/expert_pass.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

namespace sluice::offload {
namespace {

double to_double(int64_t n) {
  return static_cast<double>(n);
}

/// Steps of the golden ratio visit `n` places once each, and neighbours in time are far apart.
int64_t spreading_step(int64_t n) {
  constexpr double kGolden = 0.618;
  int64_t step = std::max<int64_t>(1, std::llround(kGolden * to_double(n)));
  while (std::gcd(step, n) != 1) {
    ++step;
  }
  return step;
}

/// SplitRates know an expert's bytes and its tokens beyond the first as a sum, and the runtime's are
/// corrected until that sum is right for batches as they come. On a machine the two go on beside each other:
/// reading hides behind products or the other way round. So a batch is divided by each of the two alone, and
/// the longer one counts.
class Divider {
 public:
  Divider(const ExpertPassCase& pass, const SplitMachine& machine)
      : pass_(pass),
        rates_(split_rates(machine, pass.choice_operations)),
        resident_(pass.tokens.size(), 0),
        split_(static_cast<int64_t>(pass.tokens.size())) {
    for (const int64_t tokens : pass.tokens) {
      met_ += tokens > 0 ? 1 : 0;
      choices_ += tokens;
    }
    ahead_ = copied_ahead();
    std::fill_n(resident_.begin(), ahead_, uint8_t{1});
  }

  [[nodiscard]] ExpertPass divide() {
    SplitWork best = divided_by(reading());
    const SplitWork other = divided_by(products());
    if (times(other).both() < times(best).both()) {
      best = other;
    }
    limit_cpu(best);
    return result(best);
  }

 private:
  [[nodiscard]] double copy_us() const { return pass_.expert_bytes * rates_.copy_per_byte / 1e3; }

  [[nodiscard]] int64_t copied_ahead() const {
    const auto experts = static_cast<int64_t>(pass_.tokens.size());
    const auto possible = static_cast<int64_t>(std::min(pass_.window_us / copy_us(), to_double(experts)));
    const bool whole = pass_.limits_cpu && pass_.last_on_gpu == experts;
    return std::min(
        {sure_experts(experts, choices_, pass_.last_on_gpu, whole), pass_.ring_experts, possible});
  }

  [[nodiscard]] SplitRates reading() const {
    SplitRates rates = rates_;
    rates.cpu_per_token = 0;
    return rates;
  }

  /// The first token of an expert is not counted by the split's model, so that the others take its part.
  [[nodiscard]] SplitRates products() const {
    SplitRates rates = rates_;
    rates.cpu_per_byte = 0;
    rates.cpu_per_token *= choices_ > met_ ? to_double(choices_) / to_double(choices_ - met_) : 1;
    return rates;
  }

  SplitWork divided_by(const SplitRates& rates) {
    split_.split({.tokens = pass_.tokens,
                  .resident = resident_,
                  .expert_bytes = std::llround(pass_.expert_bytes),
                  .probe = false},
                 rates, pass_.ring_experts > 0 ? SplitMode::kAuto : SplitMode::kCpu);
    return split_.work();
  }

  [[nodiscard]] SplitTimes times(const SplitWork& work) const {
    SplitTimes both = predict_split(work, reading());
    both.cpu = std::max(both.cpu, to_double(work.cpu_tokens) * rates_.cpu_per_token);
    return both;
  }

  /// As the runtime does: what is too much goes to the stream, here as so many experts of the CPU's mean.
  void limit_cpu(SplitWork& work) const {
    const int64_t excess = work.cpu_tokens - kMostSharedTokens;
    if (!pass_.limits_cpu || pass_.ring_experts == 0 || excess <= 0) {
      return;
    }
    const int64_t mean = std::max<int64_t>(1, work.cpu_tokens / work.cpu_experts);
    const int64_t moved = std::min(work.cpu_experts, (excess + mean - 1) / mean);
    const int64_t tokens = moved == work.cpu_experts ? work.cpu_tokens : moved * mean;
    work.cpu_experts -= moved;
    work.cpu_tokens -= tokens;
    work.copied_experts += moved;
    work.copied_tokens += tokens;
    work.last_tokens = mean;
  }

  [[nodiscard]] ExpertPass result(const SplitWork& work) const {
    const SplitTimes both = times(work);
    const double late = to_double(work.copied_experts) * copy_us();
    return {.met = met_,
            .choices = choices_,
            .cpu_experts = work.cpu_experts,
            .cpu_choices = work.cpu_tokens,
            .on_gpu = static_cast<int64_t>(pass_.tokens.size()) - work.cpu_experts,
            .cpu_us = both.cpu / 1e3,
            .stream_us = both.stream / 1e3,
            .gpu_us = to_double(work.copied_tokens + work.resident_tokens) * rates_.gpu_per_token / 1e3,
            .copy_us = late + to_double(ahead_) * copy_us(),
            .late_copy_us = late};
  }

  const ExpertPassCase& pass_;
  SplitRates rates_;
  std::vector<uint8_t> resident_;  // [experts]: copied before the choices are known
  BatchSplit split_;
  int64_t met_ = 0;
  int64_t choices_ = 0;
  int64_t ahead_ = 0;
};

}  // namespace

std::vector<int64_t> expected_tokens(int64_t experts, int64_t used, int64_t tokens) {
  assert(used > 0 && used <= experts);
  std::vector<int64_t> of_expert(static_cast<size_t>(experts), tokens);
  if (used == experts) {
    return of_expert;
  }
  const double chosen = to_double(used) / to_double(experts);
  const double log_odds = std::log(chosen) - std::log1p(-chosen);
  double log_probability = to_double(tokens) * std::log1p(-chosen);  // of exactly `n` tokens
  double below = std::exp(log_probability);                          // of at most so many
  int64_t n = 0;
  const int64_t step = spreading_step(experts);
  for (int64_t part = 0; part < experts; ++part) {
    const double quantile = (to_double(part) + 0.5) / to_double(experts);
    while (below < quantile && n < tokens) {
      log_probability += std::log(to_double(tokens - n) / to_double(n + 1)) + log_odds;
      ++n;
      below += std::exp(log_probability);
    }
    of_expert[static_cast<size_t>(part * step % experts)] = n;
  }
  return of_expert;
}

ExpertPass expected_pass(const ExpertPassCase& pass, const SplitMachine& machine) {
  return Divider(pass, machine).divide();
}

}  // namespace sluice::offload
