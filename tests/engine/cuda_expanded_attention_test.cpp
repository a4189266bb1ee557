// Dense attention of many tokens at a time, which is computed in the expanded form, against that of few,
// which is absorbed: a layer of the real model's shape.
#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <vector>

#include "engine/backends/expanded_attention.h"
#include "engine/backends/gpu_working_memory.h"
#include "engine/engine.h"
#include "kernels_cuda/base/device.h"
#include "support/compare.h"
#include "support/model_on_gpu.h"

namespace sluice {
namespace {

constexpr int64_t kManyTokens = 1000;
constexpr int64_t kWide = 512;
constexpr int64_t kNarrow = 64;

/// What the first layer's attention block adds to the residual stream, and how many tokens said what they
/// select.
class AttentionOutputs final : public ForwardObserver {
 public:
  void attention_output(int64_t layer, int64_t /*first_position*/, MatrixView<const float> output) override {
    if (layer == 0) {
      values.insert(values.end(), output.data, output.data + output.rows * output.cols);
    }
  }
  void selection(int64_t /*layer*/, int64_t /*position*/, std::span<const int32_t> selected,
                 std::span<const float> /*scores*/) override {
    EXPECT_TRUE(selected.empty());
    ++selections;
  }

  std::vector<float> values;
  int64_t selections = 0;
};

class CudaExpandedAttention : public testing::OnGpu {
 protected:
  std::vector<float> outputs(const Model& model, int64_t tile, CacheType type,
                             AttentionMode attention = AttentionMode::kDense) {
    Runtime runtime(model, {.max_batch = tile,
                            .tile = tile,
                            .attention = attention,
                            .device = Device::kGpu,
                            .prefill = Prefill::kCpu});
    const auto cache = runtime.make_cache(kManyTokens, type);
    AttentionOutputs observer;
    for (int64_t first = 0; first < kManyTokens; first += tile) {
      const auto ids = std::span(ids_).subspan(static_cast<size_t>(first),
                                               static_cast<size_t>(std::min(tile, kManyTokens - first)));
      static_cast<void>(runtime.forward(
          {.ids = ids, .first_position = first, .logits = Logits::kLast, .observer = &observer, .stop = {}},
          *cache));
    }
    EXPECT_EQ(observer.selections, kManyTokens);
    return observer.values;
  }

  std::vector<int32_t> ids_;
};

TEST_F(CudaExpandedAttention, IsTheAbsorbedForm) {
  SCOPED_TRACE(random_.describe());
  const Model model = synth::open_model(
      synth::parse_model_spec(fmt::format("synth:deepseek-v3.2,dense=1,moe=0,dense_type=q8_0,seed={}",
                                          random_.integer(0, 1'000'000))),
      {});
  for (int64_t i = 0; i < kManyTokens; ++i) {
    ids_.push_back(static_cast<int32_t>(random_.integer(0, model.config().vocab_size - 1)));
  }
  for (const CacheType type : {CacheType::kBF16, CacheType::kFp8}) {
    const auto heads = [&](int64_t n_tokens) {
      return expanded_attention_heads({.config = model.config(),
                                       .cache = type,
                                       .first_position = 0,
                                       .n_tokens = n_tokens,
                                       .multiprocessors = cuda::device_properties(0).multiprocessors},
                                      kDecodedBytes);
    };
    ASSERT_GT(heads(kWide), 0);
    ASSERT_EQ(heads(kNarrow), 0);
    const std::vector<float> expanded = outputs(model, kWide, type);
    const std::vector<double> errors =
        testing::row_errors(expanded, outputs(model, kNarrow, type), kManyTokens);
    EXPECT_GT(testing::at_share(errors, 0.5), 1e-4) << "both were absorbed";
    EXPECT_LT(testing::at_share(errors, 0.5), 0.02);
    EXPECT_LT(testing::at_share(errors, 1.0), 0.1);
    // There is no choice of so few positions yet.
    EXPECT_TRUE(testing::identical(outputs(model, kWide, type, AttentionMode::kSparse), expanded));
  }
}

}  // namespace
}  // namespace sluice
