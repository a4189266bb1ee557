// What a GPU was computing when a kernel failed.
#include "engine/backends/cuda_progress.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "engine/backends/gpu.h"
#include "engine/loaded_weights.h"
#include "offload/machine.h"
#include "support/error_text.h"
#include "support/model_on_gpu.h"

namespace sluice {
namespace {

TEST(CudaProgressText, NamesBlockAndLayer) {
  EXPECT_EQ(block_text(0), "none");
  EXPECT_EQ(block_text(block_mark(CudaBlock::kAttention, 0)), "attention of layer 0");
  EXPECT_EQ(block_text(block_mark(CudaBlock::kAttention, 12)), "attention of layer 12");
  EXPECT_EQ(block_text(block_mark(CudaBlock::kFfn, 60)), "feed-forward of layer 60");
  EXPECT_EQ(block_text(block_mark(CudaBlock::kHead, 0)), "the head");
}

class CudaProgressTest : public testing::ModelOnGpu {
 protected:
  struct Outcome {
    std::string error;
    std::string place;
  };
  /// The first layer's attention for `tokens` tokens at `position`, which no runtime has checked.
  Outcome attend_at(int64_t position, size_t tokens) {
    const Model model = random_model("q8_0");
    offload::Workers workers(1);
    RuntimeOptions options = testing::exact_on(Device::kGpu);
    const LoadedWeights weights(model, options, offload::probe_machine(), workers);
    options = sized_for_gpu(model, *weights.gpu(), weights.experts().weights(), options);
    const auto backend = make_gpu_backend(
        model, {*weights.gpu(), weights.experts().weights(), *weights.gpu_host_memory()}, options, workers);
    const auto cache = backend->make_cache(kContext, CacheType::kF32);
    const Batch batch{.ids = std::span<const int32_t>(ids_).first(tokens),
                      .first_position = position,
                      .attention = AttentionMode::kDense,
                      .cache = cache.get()};
    Outcome outcome;
    outcome.error = testing::error_text([&] {
      backend->embed(batch);
      backend->attention(0, batch);
      return backend->residual(batch.n_tokens());
    });
    outcome.place = backend->failed_in();
    backend->give_up_pass();  // must not hang
    return outcome;
  }

  /// A kernel that failed takes the process's GPU with it: for a process of its own.
  void fail(size_t tokens) {
    const Outcome outcome = attend_at(int64_t{1} << 30, tokens);
    fmt::print(stderr, "{}; {}\n", outcome.error, outcome.place);
    std::_Exit(0);
  }
};

TEST_F(CudaProgressTest, NothingFailedIsNothingNamed) {
  const Outcome outcome = attend_at(0, 2);
  EXPECT_EQ(outcome.error, "no error");
  EXPECT_EQ(outcome.place, "");
}

TEST_F(CudaProgressTest, AFailedKernelsBlockIsNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(fail(2), ::testing::ExitedWithCode(0),
              "expected success, found cudaErrorIllegalAddress.*; attention of layer 0 "
              "\\(one of rms_norm, gemv.*, write_latent.*\\)");
}

TEST_F(CudaProgressTest, InAGraphAsWell) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(fail(1), ::testing::ExitedWithCode(0),
              "expected success, found cudaErrorIllegalAddress.*; attention of layer 0 "
              "\\(one of rms_norm, gemv.*, write_latent.*\\)");
}

}  // namespace
}  // namespace sluice
