// Windows, scores and their sums; the forward pass is the runtime's.
#include "engine/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include "quant/base/error.h"

namespace sluice {
namespace {

/// Predictions of window.ids[first + 1 ...] from the rows of one batch. Rows before first_scored do not
/// count.
void score_rows(MatrixView<const float> logits, const PerplexityWindow& window, int64_t first_position,
                NllSum& sum) {
  for (int64_t row = 0; row < logits.rows; ++row) {
    const int64_t position = first_position + row;
    if (position < window.first_scored) {
      continue;
    }
    const double nll =
        negative_log_likelihood(logits.row(row), window.ids[static_cast<size_t>(position + 1)]);
    if (!std::isfinite(nll)) {
      throw Error(fmt::format("perplexity: prediction at position {}", position), "finite logits",
                  fmt::format("a negative log-likelihood of {}", nll));
    }
    sum.add(nll);
  }
}

}  // namespace

std::string_view score_protocol_name(ScoreProtocol protocol) {
  return protocol == ScoreProtocol::kHalf ? "half" : "all";
}

PerplexityWindows::PerplexityWindows(std::vector<int32_t> text_ids, int32_t bos, int64_t context,
                                     ScoreProtocol protocol, std::string_view source)
    : ids_(std::move(text_ids)),
      bos_(bos),
      context_(context),
      leading_(protocol == ScoreProtocol::kAll ? 1 : 0),
      first_scored_(protocol == ScoreProtocol::kAll ? 0 : context / 2) {
  if (context < 2 || scored_per_window() < 1) {
    throw Error("-c/--ctx-size",
                fmt::format("at least {} for --score {}", protocol == ScoreProtocol::kAll ? 2 : 3,
                            score_protocol_name(protocol)),
                fmt::format("{}", context));
  }
  const auto text_tokens = static_cast<int64_t>(ids_.size());
  if (text_tokens < context - 1) {
    throw Error(source, fmt::format("at least {} tokens of text for a context of {}", context - 1, context),
                fmt::format("{} tokens", text_tokens));
  }
  if (protocol == ScoreProtocol::kHalf) {
    ids_.insert(ids_.begin(), bos);  // llama.cpp tokenizes with BOS, so its first chunk loses no token
  }
}

int64_t PerplexityWindows::count() const {
  return static_cast<int64_t>(ids_.size()) / piece_tokens();
}

PerplexityWindow PerplexityWindows::window(int64_t index) const {
  assert(index >= 0 && index < count());
  const auto piece = ids_.begin() + index * piece_tokens();
  PerplexityWindow window;
  window.first_scored = first_scored_;
  window.ids.reserve(static_cast<size_t>(context_));
  window.ids.push_back(bos_);
  window.ids.insert(window.ids.end(), piece + (1 - leading_), piece + piece_tokens());
  return window;
}

double negative_log_likelihood(std::span<const float> logits, int32_t target) {
  assert(target >= 0 && static_cast<size_t>(target) < logits.size());
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp(static_cast<double>(logit) - largest);
  }
  return std::log(sum) + largest - static_cast<double>(logits[static_cast<size_t>(target)]);
}

void NllSum::add(double nll) {
  count_ += 1;
  sum_ += nll;
  sum_of_squares_ += nll * nll;
}

void NllSum::add(const NllSum& other) {
  count_ += other.count_;
  sum_ += other.sum_;
  sum_of_squares_ += other.sum_of_squares_;
}

double NllSum::mean() const {
  return count_ == 0 ? 0 : sum_ / static_cast<double>(count_);
}

double NllSum::mean_error() const {
  if (count_ < 2) {
    return 0;
  }
  const double variance = sum_of_squares_ / static_cast<double>(count_) - mean() * mean();
  return std::sqrt(std::max(0.0, variance) / static_cast<double>(count_ - 1));
}

double NllSum::perplexity() const {
  return std::exp(mean());
}

double NllSum::perplexity_error() const {
  return perplexity() * mean_error();
}

std::optional<NllSum> score_window(Runtime& runtime, KvCache& cache, const PerplexityWindow& window,
                                   const std::stop_token& stop) {
  NllSum sum;
  const std::span<const int32_t> ids(window.ids);
  const int64_t last = static_cast<int64_t>(ids.size()) - 1;  // nothing is predicted from the last token
  const int64_t batch = runtime.options().max_batch;
  for (int64_t first = 0; first < last; first += batch) {
    const int64_t count = std::min(batch, last - first);
    ForwardRequest request;
    request.ids = ids.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    request.first_position = first;
    request.logits = first + count > window.first_scored ? Logits::kAll : Logits::kNone;
    request.stop = stop;
    const Runtime::Result result = runtime.forward(request, cache);
    if (!result.completed) {
      return std::nullopt;
    }
    if (request.logits == Logits::kAll) {
      score_rows(result.logits, window, first, sum);
    }
  }
  return sum;
}

}  // namespace sluice
