// Tokens to the routed experts and their sum back, layer after layer without another wait.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "engine/backends/expert_handover.h"
#include "kernels_cuda/base/buffer.h"
#include "support/compare.h"
#include "support/on_gpu.h"

namespace sluice {
namespace {

using CudaExpertHandover = testing::OnGpu;

template <typename T>
void put(T* there, const std::vector<T>& values, cudaStream_t stream) {
  cuda::check(
      cudaMemcpyAsync(there, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream),
      "cudaMemcpyAsync");
}

TEST_F(CudaExpertHandover, CarriesTokensThereAndTheirSumBack) {
  SCOPED_TRACE(random_.describe());
  const HandoverShape shape{.max_tokens = 16, .d_model = 96, .used = 3};
  ExpertHandover handover(shape);
  for (const int64_t n : {1, 5, 16, 2}) {
    std::vector<float> x = random_.normal(n * shape.d_model);
    const cuda::DeviceBuffer<float> x_there(x);
    for (int layer = 0; layer < 4; ++layer) {
      const std::vector<float> f = random_.normal(n * shape.d_model);
      const std::vector<float> weights = random_.normal(n * shape.used);
      std::vector<int32_t> ids(weights.size());
      for (int32_t& id : ids) id = static_cast<int32_t>(random_.integer(0, 255));
      const cuda::DeviceBuffer<float> f_there(f);
      put(handover.ids(), ids, stream());
      put(handover.weights(), weights, stream());
      handover.send(f_there.data(), n, stream());
      const Backend::Routed routed = handover.wait(n);
      ASSERT_EQ(routed.f.rows, n);
      EXPECT_TRUE(testing::identical({routed.f.data, f.size()}, f));
      EXPECT_TRUE(testing::identical({routed.routes.weights.data, weights.size()}, weights));
      EXPECT_TRUE(std::ranges::equal(std::span(routed.routes.ids.data, ids.size()), ids));
      const std::vector<float> sum = random_.normal(n * shape.d_model);
      for (size_t i = 0; i < sum.size(); ++i) {
        EXPECT_EQ(routed.sum.data[i], 0.0F);
        routed.sum.data[i] += sum[i];
        x[i] += sum[i];
      }
      handover.take_sum(x_there.data(), n, stream());
    }
    EXPECT_TRUE(testing::identical(x_there.to_host(stream()), x));
  }
}

}  // namespace
}  // namespace sluice
