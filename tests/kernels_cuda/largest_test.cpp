// argmax and the k largest logits against sorting.
#include "kernels_cuda/largest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

class CudaLargest : public OnGpu {
 protected:
  void check(const std::vector<float>& logits, int64_t n, int64_t k) {
    const auto rows = static_cast<int64_t>(logits.size()) / n;
    std::vector<int32_t> expected;
    std::vector<int32_t> best;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = logits.data() + r * n;
      std::vector<int32_t> order(static_cast<size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, [row](int32_t a, int32_t b) {
        if (std::isnan(row[a]) || std::isnan(row[b])) return !std::isnan(row[a]) && std::isnan(row[b]);
        return row[a] > row[b];
      });
      best.push_back(order[0]);
      std::sort(order.begin(), order.begin() + k);
      expected.insert(expected.end(), order.begin(), order.begin() + k);
    }
    const cuda::DeviceBuffer<float> there(logits);
    const cuda::DeviceBuffer<int32_t> ids(rows * k);
    const cuda::DeviceBuffer<float> values(rows * k);
    const cuda::DeviceBuffer<int32_t> top(rows);
    const cuda::LogitRows view{there.data(), n, rows, n};
    cuda::largest_k(view, k, ids.data(), values.data(), stream());
    cuda::argmax(view, top.data(), stream());
    EXPECT_EQ(ids.to_host(stream()), expected) << n << ' ' << k;
    EXPECT_EQ(top.to_host(stream()), best) << n;
    const std::vector<float> got = values.to_host(stream());
    for (size_t i = 0; i < got.size(); ++i) {
      const float there_value =
          logits[i / static_cast<size_t>(k) * static_cast<size_t>(n) + static_cast<size_t>(expected[i])];
      EXPECT_TRUE(got[i] == there_value || std::isnan(there_value));
    }
  }
};

TEST_F(CudaLargest, RandomRows) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : {1, 2, 1023, 1024, 1025, 5000, 129280}) {
    for (const int64_t k : {int64_t{1}, int64_t{40}, int64_t{1000}, n}) {
      if (k <= n) check(random_.normal(2 * n), n, k);
    }
  }
}

TEST_F(CudaLargest, HostileRows) {
  SCOPED_TRACE(random_.describe());
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  check(std::vector<float>(3000, 1.5F), 3000, 100);
  check(std::vector<float>(3000, nan), 3000, 10);
  check(std::vector<float>(3000, -inf), 3000, 3000);
  std::vector<float> few(2500);
  for (float& v : few) v = static_cast<float>(random_.integer(-2, 2));
  for (const int64_t k : {1, 499, 1250, 2500}) check(few, 2500, k);
  std::vector<float> odd = random_.normal(4000, 1e-42F);
  odd[7] = nan;
  odd[8] = inf;
  odd[9] = -inf;
  odd[10] = -0.0F;
  odd[11] = 0.0F;
  for (const int64_t k : {1, 2, 3, 2000, 3999, 4000}) check(odd, 4000, k);
  std::vector<float> offset = random_.normal(4096);
  for (float& v : offset) v += 1e6F;
  check(offset, 4096, 64);
}

TEST_F(CudaLargest, RefusesNothingToChooseFrom) {
  EXPECT_NE(error_text([&] { return cuda::argmax({nullptr, 0, 1, 0}, nullptr, stream()), 0; }), "no error");
  EXPECT_NE(error_text([&] {
              return cuda::largest_k({nullptr, 5, 1, 5}, 6, nullptr, nullptr, stream()), 0;
            }),
            "no error");
}

}  // namespace
}  // namespace sluice::testing
