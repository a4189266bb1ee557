#include "kernels_cuda/mla_expanded_plan.h"

#include <algorithm>
#include <cassert>

namespace sluice::cuda {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

bool mla_expanded_takes(const MlaExpandedShape& shape) {
  return shape.d_nope == 128 && shape.d_rope == 64 && shape.d_value == 128;
}

int64_t mla_expanded_heads(int64_t n_queries, int64_t n_heads, int64_t multiprocessors) {
  assert(n_queries >= 0 && n_heads >= 1 && multiprocessors >= 1);
  const int64_t query_blocks = std::max<int64_t>(1, ceil_div(n_queries, kMlaExpandedQueries));
  const int64_t enough = std::clamp<int64_t>(ceil_div(2 * multiprocessors, query_blocks), 1, n_heads);
  return ceil_div(n_heads, ceil_div(n_heads, enough));
}

int64_t latent_expansion_weights(const MlaExpandedShape& shape, int64_t d_latent, int64_t heads) {
  return heads * d_latent * std::max(shape.d_nope, shape.d_value);  // keys' and values', one after the other
}

}  // namespace sluice::cuda
