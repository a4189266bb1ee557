// The routed experts of a layer that are in RAM, in a pass of a prompt: how the CPU and the stream to the GPU
// divide them (offload/batch_split.h) when every token chooses at random, and what that takes. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "offload/batch_split.h"

namespace sluice::offload {

/// Tokens of each expert, [experts], when each of `tokens` tokens chooses `used` of them at random: the
/// quantiles of that binomial distribution at the middles of `experts` equal parts, in an order that is not
/// theirs. 0 < used <= experts.
std::vector<int64_t> expected_tokens(int64_t experts, int64_t used, int64_t tokens);

struct ExpertPassCase {
  const std::vector<int64_t>& tokens;  // [experts]
  double expert_bytes = 0;             // in RAM
  double choice_operations = 0;        // of a token and one of its experts
  /// Experts that a ring has room for; 0: nothing is streamed.
  int64_t ring_experts = 0;
  double window_us = 0;     // that copies have before the choices are known
  int64_t last_on_gpu = 0;  // experts that the layer before left to the GPU (ExpertPass::on_gpu)
  bool limits_cpu = false;  // the pass is too long for more than kMostSharedTokens of the CPU
};

/// Times in us, from when the choices are known.
struct ExpertPass {
  int64_t met = 0;      // experts that any token chose
  int64_t choices = 0;  // of all tokens
  int64_t cpu_experts = 0;
  int64_t cpu_choices = 0;
  int64_t on_gpu = 0;  // experts that are not the CPU's, those that no token chose included
  double cpu_us = 0;
  double stream_us = 0;
  double gpu_us = 0;        // of products in the stream
  double copy_us = 0;       // of all copies, those before the choices were known included
  double late_copy_us = 0;  // of those after
};

/// With the split that is done first by the machine's rates. The CPU's side is the longer of its products and
/// its reading, to which copies add what they take of the memory's speed.
ExpertPass expected_pass(const ExpertPassCase& pass, const SplitMachine& machine);

}  // namespace sluice::offload
