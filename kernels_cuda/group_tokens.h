// Tokens sorted by the expert that they chose, for products of many tokens with many experts.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sluice::cuda {

/// A token's choice is a pair of token and k; pairs of an expert are consecutive slots, ascending by token.
struct TokenGroups {
  int32_t* begins = nullptr;  // [experts + 1]: expert e has slots [begins[e], begins[e + 1])
  int32_t* tokens = nullptr;  // [n_tokens * used]: the token of a slot
  int32_t* slots = nullptr;   // [n_tokens, used]: the slot of a choice
};

/// ids [n_tokens, used], each in [0, experts). All on the GPU. The order depends on nothing but ids. Throws
/// Error when CUDA refuses the launch. Does not wait.
void group_tokens(const int32_t* ids, int64_t n_tokens, int64_t used, int64_t experts,
                  const TokenGroups& groups, cudaStream_t stream);

}  // namespace sluice::cuda
