// Picks the next token from logits: greedy, or temperature with top-k, top-p, min-p and a repetition penalty.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "engine/logit_candidates.h"

namespace sluice {

struct SamplingParams {
  float temperature = 1.0F;     // 0 = greedy
  int64_t top_k = 0;            // 0 = off
  float top_p = 0.95F;          // 1 = off
  float min_p = 0.0F;           // 0 = off
  float repeat_penalty = 1.0F;  // 1 = off
  int64_t repeat_last_n = 64;   // tokens of history it looks at; -1 = all
  uint64_t seed = 0;

  /// Throws Error naming the flag when a value is out of its range.
  void check() const;
};

class Sampler {
 public:
  explicit Sampler(const SamplingParams& params);

  /// logits [vocab]; history: all ids so far, for the penalty. Order: penalty, temperature, top-k, top-p,
  /// min-p. The same seed, logits and history give the same choice on every machine. Ties: smaller id. Tokens
  /// less than 2^-40 times as likely as the best are never drawn. Throws Error on a NaN or +inf among the
  /// logits, when all are -inf, and on an id in the history that is no index of the logits.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history);

  /// What is most often enough of the logits; none where all are needed: with a repetition penalty, for a
  /// top-k of more than kMostCandidateTokens, and where neither top-k, top-p nor min-p leaves tokens out.
  [[nodiscard]] std::optional<CandidateRequest> request() const;
  /// The choice of sample() from candidates that request() asked for. None where it depends on others: then
  /// nothing was drawn, and sample() is to be called.
  std::optional<int32_t> sample(const LogitCandidates& candidates);

 private:
  struct Candidate {
    float logit;
    int32_t id;
    uint64_t weight;  // token_weight
  };
  // Order of likelihood; a total one.
  static bool better(const Candidate& a, const Candidate& b);
  std::span<const float> penalized(std::span<const float> logits, std::span<const int32_t> history);
  void collect(std::span<const float> logits, float highest);
  void weigh(float highest);
  // Drop all candidates after `last`; the others keep their order, by id.
  void cut_after(const Candidate& last);
  void keep_top_k();
  [[nodiscard]] uint64_t total_weight() const;
  // Of `total`. False, and nothing is dropped, when the cut is among tokens of no more than `least` weight.
  bool keep_top_p(uint64_t total, uint64_t least);
  [[nodiscard]] double least_of_min_p() const;
  void keep_min_p();
  // The cuts of weighed candidates, beside which there may be tokens of no more than `least` weight.
  bool cut(uint64_t total, uint64_t least);
  int32_t draw();

  SamplingParams params_;
  std::mt19937_64 random_;
  std::vector<Candidate> candidates_;
  std::vector<Candidate> ranking_;  // scratch of the cuts
  std::vector<float> penalized_;
};

/// Index of the largest logit; the smallest index on a tie. NaN does not count; 0 when there is nothing else.
int32_t argmax(std::span<const float> logits);

}  // namespace sluice
