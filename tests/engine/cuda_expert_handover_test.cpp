// Tokens to the routed experts and their sum back, layer after layer without another wait.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>  // setenv

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/backends/expert_handover.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/graph.h"
#include "kernels_cuda/elementwise.h"
#include "support/compare.h"
#include "support/error_text.h"
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
    handover.begin_pass();
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
      const Backend::Routed routed = handover.receive(n, stream());
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
      handover.answer();
      handover.take_sum(x_there.data(), n, stream());
    }
    EXPECT_TRUE(testing::identical(x_there.to_host(stream()), x));
  }
}

// What a captured pass does: several layers in one launch, the host answering each.
TEST_F(CudaExpertHandover, RepeatsInAGraph) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kLayers = 5;
  const HandoverShape shape{.max_tokens = 2, .d_model = 72, .used = 2};
  ExpertHandover handover(shape);
  std::vector<float> x = random_.normal(shape.d_model);
  const cuda::DeviceBuffer<float> x_there(x);
  const std::vector<int32_t> ids{3, 8, 0, 0};
  const std::vector<float> weights(4, 0.5F);
  put(handover.ids(), ids, stream());
  put(handover.weights(), weights, stream());
  const cuda::Graph graph(stream(), [&] {
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      handover.send(x_there.data(), 1, stream());
      handover.take_sum(x_there.data(), 1, stream());
    }
  });
  for (int run = 0; run < 20; ++run) {
    handover.begin_pass();
    graph.launch(stream());
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const Backend::Routed routed = handover.receive(1, stream());
      ASSERT_TRUE(testing::identical({routed.f.data, x.size()}, x));
      EXPECT_EQ(routed.routes.ids.row(0)[1], 8);
      for (size_t i = 0; i < x.size(); ++i) {
        const float sum = random_.uniform(-1, 1);
        routed.sum.data[i] += sum;
        x[i] += sum;
      }
      handover.answer();
    }
  }
  EXPECT_TRUE(testing::identical(x_there.to_host(stream()), x));
  // Nobody answers: drain() does.
  handover.begin_pass();
  graph.launch(stream());
  static_cast<void>(handover.receive(1, stream()));
  handover.drain(stream());
  EXPECT_EQ(cudaStreamQuery(stream()), cudaSuccess);
}

TEST_F(CudaExpertHandover, AStreamThatEndsIsAnError) {
  ExpertHandover handover({.max_tokens = 1, .d_model = 8, .used = 1});
  const std::string text = testing::error_text([&] { return handover.receive(1, stream()).sum.rows; });
  EXPECT_NE(text.find("stream that has ended"), std::string::npos) << text;
}

// In a process of its own: after such an error no other CUDA call of a process works.
[[noreturn]] void write_nowhere_and_wait() {
  const std::string text = testing::error_text([&] {
    const cuda::Stream stream;
    ExpertHandover handover({.max_tokens = 1, .d_model = 8, .used = 1});
    float* const nowhere = nullptr;
    cuda::add_scaled(nowhere, 1.0F, 8, nowhere, stream.get());
    handover.send(nowhere, 1, stream.get());
    return handover.receive(1, stream.get()).sum.rows;
  });
  fmt::print(stderr, "{}\n", text);
  std::_Exit(3);
}

TEST_F(CudaExpertHandover, AFailingKernelIsAnErrorAndNoHang) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(write_nowhere_and_wait(), ::testing::ExitedWithCode(3),
              "cudaErrorIllegalAddress.*CUDA_LAUNCH_BLOCKING=1");
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
  EXPECT_EXIT(write_nowhere_and_wait(), ::testing::ExitedWithCode(3), "add_scaled.*cudaErrorIllegalAddress");
  unsetenv("CUDA_LAUNCH_BLOCKING");
}

}  // namespace
}  // namespace sluice
