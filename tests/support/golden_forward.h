// A prompt of the trained tiny model through a runtime, compared with what an independent implementation
// found.
#pragma once

#include <cstdint>
#include <string>

#include "engine/engine.h"

namespace sluice::testing {

inline constexpr const char* kGoldenPrompts[] = {"short", "dialogue", "t300", "t700", "t1500", "chat"};

/// Expects logits within 1e-3, values of every layer within 1e-3 relative, the same experts, and selections
/// that overlap by 0.995. The cache is float32. `runtime` is of golden_model(), which must be there.
void expect_golden(Runtime& runtime, const std::string& prompt);

/// How far rounded arithmetic is from the goldens.
struct GoldenDistance {
  int64_t positions = 0;     // whose logits were compared
  int64_t same_first = 0;    // of them, how many have the golden's likeliest token
  double logit_error = 0;    // |difference| / |golden| over all of them
  double largest_error = 0;  // of a logit
  double overlap = 0;        // of selections, mean over layers; 1 where everything is selected
  int64_t selections = 0;
};
GoldenDistance golden_distance(Runtime& runtime, const std::string& prompt, CacheType cache_type);

/// Expects the goldens' greedy continuations, token by token.
void expect_golden_continuations(Runtime& runtime);

}  // namespace sluice::testing
