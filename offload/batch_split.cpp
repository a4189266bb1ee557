#include "offload/batch_split.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "quant/base/error.h"

namespace sluice::offload {
namespace {

// What both at once must gain over one alone: the rates are not known better, and each side has costs of its
// own at the layer's ends.
constexpr double kWorthBoth = 0.95;
// A probe moves an eighth of the experts, four at most.
constexpr int64_t kLeastPerProbed = 8;
constexpr int64_t kMostProbed = 4;
constexpr double kProbeCost = 1.1;
// Copies leave the CPU at least a quarter of the memory's speed, however little of it the CPU could use.
constexpr double kMostTaken = 0.75;
constexpr double kFollowed = 0.6;  // of what a measurement asks for
constexpr double kMostFactor = 16;

double to_double(int64_t n) {
  return static_cast<double>(n);
}

double copy_ns(const SplitWork& work, const SplitRates& rates) {
  return to_double(work.expert_bytes) * rates.copy_per_byte + rates.copy_per_expert;
}

/// The two parts of a time.
struct Parts {
  double first = 0;
  double second = 0;

  [[nodiscard]] double sum() const { return first + second; }
};

// Bytes, tokens. What copies take from the CPU lies in the bytes' part.
Parts cpu_parts(const SplitWork& work, const SplitRates& rates) {
  const double bytes = to_double(work.cpu_experts * work.expert_bytes) * rates.cpu_per_byte;
  const double tokens = to_double(work.cpu_tokens - work.cpu_experts) * rates.cpu_per_token;
  const double own = bytes + tokens;
  const double copying = to_double(work.copied_experts) * copy_ns(work, rates);
  const double taken =
      std::min(to_double(work.copied_experts * work.expert_bytes) * rates.cpu_per_byte, kMostTaken * copying);
  if (own == 0 || own + taken >= copying) {  // all that is copied is copied before the CPU is done
    return {.first = own == 0 ? 0 : bytes + taken, .second = tokens};
  }
  return {.first = own * copying / (copying - taken) - tokens, .second = tokens};
}

// Copies, products: of the longest way through the stream.
Parts stream_parts(const SplitWork& work, const SplitRates& rates) {
  const double resident = to_double(work.resident_tokens) * rates.gpu_per_token;
  if (work.copied_experts == 0) {
    return {.first = 0, .second = resident};
  }
  const double copy = copy_ns(work, rates);
  const double products = to_double(work.copied_tokens) * rates.gpu_per_token;
  const Parts ways[] = {
      {.first = 0, .second = resident + products},
      {.first = copy, .second = products},
      {.first = to_double(work.copied_experts) * copy,
       .second = to_double(work.last_tokens) * rates.gpu_per_token},
  };
  return *std::ranges::max_element(ways, {}, &Parts::sum);
}

void check_figure(const char* name, double value, bool may_be_zero) {
  if (!std::isfinite(value) || value < 0 || (value == 0 && !may_be_zero)) {
    throw Error(fmt::format("the machine's {}", name), "a positive number", fmt::format("{}", value));
  }
}

}  // namespace

SplitRates split_rates(const SplitMachine& machine, int64_t d_model, int64_t d_expert) {
  return split_rates(machine, 2.0 * 3 * to_double(d_model) * to_double(d_expert));  // gate, up, down
}

SplitRates split_rates(const SplitMachine& machine, double operations) {
  check_figure("RAM GB/s", machine.ram_gb_per_s, false);
  check_figure("CPU GOPS", machine.cpu_gops, false);
  check_figure("GB/s of copies to the GPU", machine.copy_gb_per_s, false);
  check_figure("us per copy", machine.copy_us, true);
  check_figure("GPU TFLOPS", machine.gpu_tflops, false);
  return {.cpu_per_byte = 1 / machine.ram_gb_per_s,
          .cpu_per_token = operations / machine.cpu_gops,
          .copy_per_byte = 1 / machine.copy_gb_per_s,
          .copy_per_expert = machine.copy_us * 1e3,
          .gpu_per_token = operations / (machine.gpu_tflops * 1e3)};
}

int64_t sure_experts(int64_t experts, int64_t choices, int64_t on_gpu, bool whole) {
  constexpr int64_t kSureChoices = 8;
  if (choices < kSureChoices * experts) {
    return 0;
  }
  return whole ? experts : on_gpu / 2;
}

SplitTimes predict_split(const SplitWork& work, const SplitRates& rates) {
  return {.cpu = cpu_parts(work, rates).sum(), .stream = stream_parts(work, rates).sum()};
}

BatchSplit::BatchSplit(int64_t max_experts) {
  const auto n = static_cast<size_t>(max_experts);
  sides_.reserve(n);
  order_.reserve(n);
  tokens_before_.reserve(n + 1);
}

void BatchSplit::split(const SplitBatch& batch, const SplitRates& rates, SplitMode mode) {
  assert(batch.tokens.size() <= sides_.capacity());
  assert(batch.resident.empty() || batch.resident.size() == batch.tokens.size());
  sort(batch);
  int64_t copied = mode == SplitMode::kCpu ? 0 : static_cast<int64_t>(order_.size());
  if (mode == SplitMode::kAuto) {
    copied = best_cut(rates);
    copied = batch.probe ? probing_cut(copied, rates) : copied;
  }
  work_ = cut(copied);
  for (const int32_t expert : streamed()) {
    sides_[static_cast<size_t>(expert)] = SplitSide::kStream;
  }
}

// Fills the lists, with everything that is not resident on the CPU.
void BatchSplit::sort(const SplitBatch& batch) {
  resident_tokens_ = 0;
  expert_bytes_ = batch.expert_bytes;
  sides_.assign(batch.tokens.size(), SplitSide::kNone);
  order_.clear();
  for (size_t e = 0; e < batch.tokens.size(); ++e) {
    if (batch.tokens[e] == 0) {
      continue;
    }
    if (!batch.resident.empty() && batch.resident[e] != 0) {
      sides_[e] = SplitSide::kResident;
      resident_tokens_ += batch.tokens[e];
    } else {
      sides_[e] = SplitSide::kCpu;
      order_.push_back(static_cast<int32_t>(e));
    }
  }
  std::ranges::sort(order_, [&](int32_t a, int32_t b) {
    const int64_t of_a = batch.tokens[static_cast<size_t>(a)];
    const int64_t of_b = batch.tokens[static_cast<size_t>(b)];
    return of_a != of_b ? of_a > of_b : a < b;
  });
  tokens_before_.assign(1, 0);
  for (const int32_t expert : order_) {
    tokens_before_.push_back(tokens_before_.back() + batch.tokens[static_cast<size_t>(expert)]);
  }
}

// The first `copied_experts` to the stream, the others to the CPU.
SplitWork BatchSplit::cut(int64_t copied_experts) const {
  const auto at = static_cast<size_t>(copied_experts);
  return {.expert_bytes = expert_bytes_,
          .cpu_experts = static_cast<int64_t>(order_.size()) - copied_experts,
          .cpu_tokens = tokens_before_.back() - tokens_before_[at],
          .copied_experts = copied_experts,
          .copied_tokens = tokens_before_[at],
          .last_tokens = at == 0 ? 0 : tokens_before_[at] - tokens_before_[at - 1],
          .resident_tokens = resident_tokens_};
}

int64_t BatchSplit::best_cut(const SplitRates& rates) const {
  const auto movable = static_cast<int64_t>(order_.size());
  const auto done = [&](int64_t copied) { return predict_split(cut(copied), rates).both(); };
  const int64_t one_side = done(movable) < done(0) ? movable : 0;
  int64_t best = one_side;
  for (int64_t copied = 1; copied < movable; ++copied) {
    best = done(copied) < done(best) ? copied : best;
  }
  return done(best) < kWorthBoth * done(one_side) ? best : one_side;
}

int64_t BatchSplit::probing_cut(int64_t copied_experts, const SplitRates& rates) const {
  const auto movable = static_cast<int64_t>(order_.size());
  if (copied_experts != 0 && copied_experts != movable) {
    return copied_experts;
  }
  const auto done = [&](int64_t copied) { return predict_split(cut(copied), rates).both(); };
  for (int64_t probed = std::min(kMostProbed, movable / kLeastPerProbed); probed > 0; probed /= 2) {
    const int64_t there = copied_experts == 0 ? probed : movable - probed;
    if (done(there) <= kProbeCost * done(copied_experts)) {
      return there;
    }
  }
  return copied_experts;
}

void SplitLearner::Correction::follow(double measured) {
  const double most = std::log(kMostFactor);
  last_[next_] = std::clamp(measured, -most, most);
  next_ = (next_ + 1) % 3;
  const double median =
      std::max(std::min(last_[0], last_[1]), std::min(std::max(last_[0], last_[1]), last_[2]));
  log_ += kFollowed * (median - log_);
}

double SplitLearner::Correction::factor() const {
  return std::exp(log_);
}

// Both terms are corrected in proportion to their shares of the prediction, and as far as makes the sum right
// (to first order in the logarithm).
void SplitLearner::follow(const Terms& predicted, double measured) {
  const double sum = predicted.first + predicted.second;
  const double a = predicted.first / sum;
  const double b = predicted.second / sum;
  const double wrong = std::log(measured / sum) / (a * a + b * b);
  predicted.of_first.follow(predicted.of_first.log() + a * wrong);
  predicted.of_second.follow(predicted.of_second.log() + b * wrong);
}

void SplitLearner::learn(const SplitWork& work, const SplitTimes& measured) {
  const auto usable = [](double ns) { return std::isfinite(ns) && ns > 0; };
  if (work.cpu_experts > 0 && usable(measured.cpu)) {
    const Parts parts = cpu_parts(work, rates_);
    follow({parts.first, parts.second, cpu_bytes_, cpu_tokens_}, measured.cpu);
    cpu_age_ = {.measurements = cpu_age_.measurements + 1, .layers_since = 0};
  } else {
    ++cpu_age_.layers_since;
  }
  if (work.copied_experts > 0 && usable(measured.stream)) {
    const Parts parts = stream_parts(work, rates_);
    follow({parts.first, parts.second, copies_, products_}, measured.stream);
    stream_age_ = {.measurements = stream_age_.measurements + 1, .layers_since = 0};
  } else {
    ++stream_age_.layers_since;
  }
  rates_ = {.cpu_per_byte = start_.cpu_per_byte * cpu_bytes_.factor(),
            .cpu_per_token = start_.cpu_per_token * cpu_tokens_.factor(),
            .copy_per_byte = start_.copy_per_byte * copies_.factor(),
            .copy_per_expert = start_.copy_per_expert * copies_.factor(),
            .gpu_per_token = start_.gpu_per_token * products_.factor()};
}

}  // namespace sluice::offload
