// Routing against the CPU's: choices, ties, hostile logits.
#include "kernels_cuda/router.h"

#include <cmath>
#include <limits>
#include <vector>

#include "kernels_cpu/router.h"
#include "kernels_cuda/base/buffer.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

class CudaRouter : public OnGpu {
 protected:
  void check(const cpu::RouterParams& shape, const std::vector<float>& logits,
             const std::vector<float>& bias) {
    const auto experts = static_cast<size_t>(shape.experts);
    const auto used = static_cast<size_t>(shape.experts_used);
    const size_t tokens = logits.size() / experts;
    std::vector<int32_t> ids(tokens * used);
    std::vector<float> weights(tokens * used);
    std::vector<float> scratch(static_cast<size_t>(cpu::router_scratch_floats(shape)));
    for (size_t t = 0; t < tokens; ++t) {
      cpu::route_token(shape, std::span(logits).subspan(t * experts, experts), bias,
                       std::span(ids).subspan(t * used, used), std::span(weights).subspan(t * used, used),
                       scratch);
    }
    const cuda::DeviceBuffer<float> logits_there(logits);
    const cuda::DeviceBuffer<float> bias_there(bias);
    const cuda::DeviceBuffer<int32_t> ids_there(static_cast<int64_t>(ids.size()));
    const cuda::DeviceBuffer<float> weights_there(static_cast<int64_t>(ids.size()));
    cuda::route({.logits = logits_there.data(),
                 .bias = bias.empty() ? nullptr : bias_there.data(),
                 .n_tokens = static_cast<int64_t>(tokens),
                 .experts = shape.experts,
                 .experts_used = shape.experts_used,
                 .groups = shape.groups,
                 .groups_used = shape.groups_used,
                 .normalize = shape.normalize,
                 .scale = shape.scale,
                 .ids = ids_there.data(),
                 .weights = weights_there.data()},
                stream());
    EXPECT_EQ(ids_there.to_host(stream()), ids);
    // The sigmoids may differ by two ulps, and eight of them are added.
    std::vector<float> got = weights_there.to_host(stream());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(std::isnan(got[i]), std::isnan(weights[i])) << i;
      if (std::isnan(got[i])) got[i] = weights[i] = 0.0F;
    }
    EXPECT_TRUE(close(got, weights, 16 * kRounding, 1e-44));
  }
};

/// Logits apart by more than an ulp of their sigmoids, in random order: no choice hangs on rounding.
std::vector<float> distinct(Random& random, int64_t n) {
  std::vector<float> values;
  for (int64_t i = 0; i < n; ++i)
    values.push_back(-4.0F + 8.0F * static_cast<float>(i) / static_cast<float>(n));
  for (size_t i = values.size(); i > 1; --i) {
    std::swap(values[i - 1], values[static_cast<size_t>(random.integer(0, static_cast<int64_t>(i) - 1))]);
  }
  return values;
}

TEST_F(CudaRouter, ChoosesAsTheCpu) {
  SCOPED_TRACE(random_.describe());
  const std::vector<cpu::RouterParams> shapes = {
      {},
      {.experts = 16, .experts_used = 4, .groups = 4, .groups_used = 2},
      {.experts = 7, .experts_used = 7, .groups = 1, .groups_used = 1, .normalize = false, .scale = 1.0F},
      {.experts = 8, .experts_used = 2, .groups = 8, .groups_used = 3},
      {.experts = 1024, .experts_used = 32, .groups = 64, .groups_used = 4}};
  for (const cpu::RouterParams& shape : shapes) {
    std::vector<float> logits;
    for (int t = 0; t < 50; ++t) {
      const std::vector<float> row = distinct(random_, shape.experts);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    check(shape, logits, {});
    std::vector<float> bias = distinct(random_, shape.experts);
    for (float& b : bias) b *= 0.4375F;
    check(shape, logits, std::vector<float>(static_cast<size_t>(shape.experts), 0.0F));
    check(shape, std::vector<float>(static_cast<size_t>(shape.experts), 0.25F), bias);
  }
}

TEST_F(CudaRouter, TiesAndHostileLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (const float same : {0.0F, 1.0F, -200.0F, 200.0F, nan, inf, -inf})
    check({}, std::vector<float>(256, same), {});
  std::vector<float> mixed(256, -1.0F);
  mixed[3] = nan;
  mixed[40] = inf;
  mixed[41] = inf;
  mixed[100] = -inf;
  mixed[255] = 2.0F;
  check({}, mixed, {});
  check({.experts = 256, .experts_used = 8, .groups = 8, .groups_used = 1}, mixed, {});
}

TEST_F(CudaRouter, RefusesImpossibleShapes) {
  EXPECT_NE(error_text([&] { return cuda::route({.experts = 10, .groups = 3}, stream()), 0; }), "no error");
  EXPECT_NE(error_text([&] {
              return cuda::route({.experts = 16, .experts_used = 9, .groups = 8, .groups_used = 4}, stream()),
                     0;
            }),
            "no error");
}

}  // namespace
}  // namespace sluice::testing
