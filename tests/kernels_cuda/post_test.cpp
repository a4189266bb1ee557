// Parts of any length into page-locked memory with a flag behind them; the host's answer added.
#include "kernels_cuda/post.h"

#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

using CudaPost = OnGpu;

TEST_F(CudaPost, PartsThenTheFlag) {
  SCOPED_TRACE(random_.describe());
  const cuda::PostScratch scratch;
  const cuda::HostFlag flag;
  // Less than a load, one block's most, the next one, and as much as goes round.
  for (const int64_t words : {1, 7, 8192, 8193, 300'001}) {
    const int64_t other = random_.integer(1, 100);
    const std::vector<float> a = random_.normal(words);
    const std::vector<float> b = random_.normal(other);
    const cuda::DeviceBuffer<float> a_there(a);
    const cuda::DeviceBuffer<float> b_there(b);
    const cuda::PinnedBuffer<float> a_here(words);
    const cuda::PinnedBuffer<float> b_here(other);
    const cuda::PostedPart parts[] = {{b_there.data(), b_here.data(), other},
                                      {a_there.data(), a_here.data(), words}};
    cuda::post(parts, flag, scratch, stream());
    while (!flag.take_down()) {
    }
    EXPECT_TRUE(identical(a_here.values(), a)) << words;
    EXPECT_TRUE(identical(b_here.values(), b)) << words;
    EXPECT_FALSE(flag.is_raised());
  }
}

TEST_F(CudaPost, AnswersAreAddedWhenTheFlagIsRaised) {
  SCOPED_TRACE(random_.describe());
  const cuda::HostFlag flag;
  {
    // A kernel's first launch loads it, which may wait for the stream: not behind what waits for us.
    const cuda::DeviceBuffer<float> y(std::vector<float>(4, 0.0F));
    const cuda::PinnedBuffer<float> x(4);
    cuda::add_from_host(x.data(), 4, y.data(), flag, stream());
    static_cast<void>(y.to_host(stream()));
  }
  for (const int64_t n : {1, 6, 7168, 300'001}) {
    std::vector<float> y = random_.normal(n);
    const cuda::DeviceBuffer<float> y_there(y);
    const cuda::PinnedBuffer<float> x(n);
    flag.wait_in(stream());
    cuda::add_from_host(x.data(), n, y_there.data(), flag, stream());
    EXPECT_EQ(cudaStreamQuery(stream()), cudaErrorNotReady);
    for (size_t i = 0; i < y.size(); ++i) {
      x.data()[i] = random_.uniform(-1, 1);
      y[i] += x.data()[i];
    }
    flag.raise();
    EXPECT_TRUE(identical(y_there.to_host(stream()), y)) << n;
    EXPECT_FALSE(flag.is_raised());
  }
}

TEST_F(CudaPost, RefusesWhatIsNotAligned) {
  const cuda::HostFlag flag;
  const cuda::PostScratch scratch;
  const cuda::DeviceBuffer<float> from(8);
  const cuda::PinnedBuffer<float> to(8);
  const cuda::PostedPart part{from.data() + 1, to.data(), 4};
  const std::string text = error_text([&] {
    cuda::post({&part, 1}, flag, scratch, stream());
    return 0;
  });
  EXPECT_NE(text.find("16 bytes"), std::string::npos) << text;
}

}  // namespace
}  // namespace sluice::testing
