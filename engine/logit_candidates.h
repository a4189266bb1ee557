// A row of logits as a sampler can choose from it without all of it: its likeliest tokens.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice {

/// Tokens that are asked for at most.
inline constexpr int64_t kMostCandidateTokens = 1024;

struct CandidateRequest {
  int64_t count = 1;         // of tokens
  float temperature = 0;     // of the weights
  bool wants_total = false;  // the weight of all tokens
};

struct LogitCandidates {
  std::vector<int32_t> ids;  // the tokens of the `count` largest logits, of equal ones the smaller; ascending
  std::vector<float> logits;  // of those
  uint64_t total = 0;         // of all tokens' weights (kernels_cuda/token_weight.h), where it was asked for
};

}  // namespace sluice
