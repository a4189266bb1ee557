// Perplexity of a text: how it is cut into windows, which predictions count, and the mean with its standard
// error.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <stop_token>
#include <string_view>
#include <vector>

#include "engine/caches.h"
#include "engine/runtime.h"

namespace sluice {

/// kHalf, llama.cpp's protocol: BOS and text are cut into chunks of c tokens, each chunk's first token
/// becomes BOS,
///   and its second half is scored: c - c/2 - 1 predictions, the first made from position c/2.
/// kAll: the text is cut into pieces of c - 1 tokens, a window is BOS and one piece, all c - 1 predictions
/// count. Either way an incomplete window at the end is left out.
enum class ScoreProtocol { kHalf, kAll };
/// "half", "all".
std::string_view score_protocol_name(ScoreProtocol protocol);

struct PerplexityWindow {
  std::vector<int32_t> ids;  // [context], BOS first
  int64_t first_scored = 0;  // the prediction made from position i, of ids[i + 1], counts from here on
};

/// The windows of one text.
class PerplexityWindows {
 public:
  /// Throws Error naming -c/--ctx-size when a window of `context` tokens scores nothing, and naming `source`
  /// with both numbers when the text does not fill one window.
  PerplexityWindows(std::vector<int32_t> text_ids, int32_t bos, int64_t context, ScoreProtocol protocol,
                    std::string_view source);

  [[nodiscard]] int64_t count() const;
  [[nodiscard]] int64_t scored_per_window() const { return context_ - 1 - first_scored_; }
  [[nodiscard]] PerplexityWindow window(int64_t index) const;

 private:
  [[nodiscard]] int64_t piece_tokens() const { return context_ - leading_; }

  std::vector<int32_t> ids_;  // cut every piece_tokens()
  int32_t bos_;
  int64_t context_;
  int64_t leading_;  // tokens put before each piece: 1 when BOS takes no token's place
  int64_t first_scored_;
};

/// -log(softmax(logits)[target]) in nats, summed in double.
double negative_log_likelihood(std::span<const float> logits, int32_t target);

/// Mean and standard error over scored tokens.
class NllSum {
 public:
  void add(double nll);
  void add(const NllSum& other);
  [[nodiscard]] int64_t count() const { return count_; }
  /// 0 while nothing was added.
  [[nodiscard]] double mean() const;
  /// Of the mean: sqrt((mean of squares - square of mean) / (count - 1)); 0 with fewer than two tokens.
  [[nodiscard]] double mean_error() const;
  [[nodiscard]] double perplexity() const;        // exp(mean)
  [[nodiscard]] double perplexity_error() const;  // to first order: exp(mean) * mean_error

 private:
  int64_t count_ = 0;
  double sum_ = 0;
  double sum_of_squares_ = 0;
};

/// Computes one window from position 0 of `cache` in batches and scores it; empty when it was stopped.
/// Throws Error when a prediction is not a finite number.
std::optional<NllSum> score_window(Runtime& runtime, KvCache& cache, const PerplexityWindow& window,
                                   const std::stop_token& stop);

}  // namespace sluice
