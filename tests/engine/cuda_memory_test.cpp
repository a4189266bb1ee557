// A GPU that is full at one allocation after the other: one error, nothing kept, and the next attempt works.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "kernels_cuda/base/memory_count.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/model_on_gpu.h"

namespace sluice {
namespace {

/// A limit of so many bytes beyond what is taken, while it lives.
class Limited {
 public:
  explicit Limited(int64_t bytes) {
    cuda::device_memory_count().set_limit(cuda::device_memory_count().taken() + bytes);
  }
  ~Limited() { cuda::device_memory_count().set_limit(cuda::MemoryCount::kNoLimit); }
  Limited(const Limited&) = delete;
  Limited& operator=(const Limited&) = delete;
};

class CudaMemoryLimit : public testing::ModelOnGpu {
 protected:
  /// Streamed, so that results are the same bits in every run, and all working memory of a fixed size.
  static RuntimeOptions options() {
    return {.max_batch = 64,
            .tile = 32,
            .attention = AttentionMode::kDense,
            .device = Device::kGpu,
            .prefill = Prefill::kStream,
            .staging_bytes = int64_t{8} << 20};
  }
};

TEST_F(CudaMemoryLimit, AFullCardIsToldAtEveryStageAndNothingIsKept) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  const std::vector<float> expected = logits(model, options());
  const int64_t before = cuda::device_memory_count().taken();
  constexpr int64_t kEnough = int64_t{1} << 32;
  int failures = 0;
  std::vector<float> found;
  for (int64_t limit = 4096; found.empty() && limit < kEnough; limit += limit / 4) {
    SCOPED_TRACE(limit);
    std::string text;
    {
      const Limited limited(limit);
      text = testing::error_text([&] {
        found = logits(model, options());
        return 0;
      });
    }
    EXPECT_EQ(cuda::device_memory_count().taken(), before);
    if (found.empty()) {
      ++failures;
      EXPECT_NE(text.find("GPU"), std::string::npos) << text;
      EXPECT_NE(text.find(" free"), std::string::npos) << text;
    }
  }
  EXPECT_GT(failures, 10);
  EXPECT_TRUE(testing::identical(found, expected));
}

TEST_F(CudaMemoryLimit, WithoutRoomForACacheTheRuntimeGoesOn) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  Runtime runtime(model, options());
  const std::vector<float> expected = logits(runtime);
  Session session(runtime, kContext, CacheType::kBF16);
  session.prefill(std::span(ids_).first(100));
  {
    const Limited limited(0);
    const std::string text =
        testing::error_text([&] { return runtime.make_cache(kContext, CacheType::kBF16)->capacity(); });
    EXPECT_TRUE(text.starts_with("-c/--ctx-size: expected a context whose cache fits on the GPU")) << text;
  }
  session.append(1);  // no launch reports the failed allocation
  EXPECT_EQ(session.tokens().size(), 101U);
  EXPECT_TRUE(testing::identical(logits(runtime), expected));
}

}  // namespace
}  // namespace sluice
