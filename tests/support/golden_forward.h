// A prompt of the trained tiny model through a runtime, compared with what an independent implementation
// found.
#pragma once

#include <string>

#include "engine/engine.h"

namespace sluice::testing {

inline constexpr const char* kGoldenPrompts[] = {"short", "dialogue", "t300", "t700", "t1500", "chat"};

/// Expects logits within 1e-3, values of every layer within 1e-3 relative, the same experts, and selections
/// that overlap by 0.995. The cache is float32. `runtime` is of golden_model(), which must be there.
void expect_golden(Runtime& runtime, const std::string& prompt);

/// Expects the goldens' greedy continuations, token by token.
void expect_golden_continuations(Runtime& runtime);

}  // namespace sluice::testing
