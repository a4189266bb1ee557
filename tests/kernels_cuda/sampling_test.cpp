// Candidates of a row of logits against sorting, and the weight of all tokens against the host's, to the bit.
#include "kernels_cuda/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/token_weight.h"
#include "support/error_text.h"
#include "support/logit_candidates.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class CudaSampling : public OnGpu {
 protected:
  struct Found {
    std::vector<int32_t> ids;
    std::vector<float> logits;
    cuda::CandidateSummary summary{};
  };

  Found find(const std::vector<float>& logits, int64_t k, float temperature) {
    const auto n = static_cast<int64_t>(logits.size());
    const cuda::DeviceBuffer<float> there(logits);
    const cuda::DeviceBuffer<std::byte> scratch(cuda::sampling_scratch(n).bytes);
    scratch.fill_bytes(0xAB, stream());  // nothing has to be in it
    const cuda::PinnedBuffer<int32_t> ids(k);
    const cuda::PinnedBuffer<float> values(k);
    const cuda::PinnedBuffer<cuda::CandidateSummary> summary(1);
    const cuda::CandidateParams params{
        .logits = there.data(),
        .n = n,
        .k = k,
        .weight_factor = temperature > 0 ? token_weight_factor(temperature) : 0,
        .scratch = scratch.data(),
        .out = {ids.data(), values.data(), summary.data()}};
    for (int run = 0; run < 2; ++run) cuda::find_candidates(params, stream());
    cuda::check(cudaStreamSynchronize(stream()), "find_candidates");
    return {{ids.data(), ids.data() + k}, {values.data(), values.data() + k}, *summary.data()};
  }

  void check(const std::vector<float>& logits, int64_t k, float temperature) {
    const LogitCandidates expected =
        candidates_of(logits, {.count = k, .temperature = temperature, .wants_total = temperature > 0});
    const Found found = find(logits, k, temperature);
    ASSERT_EQ(found.ids, expected.ids) << logits.size() << " logits, k " << k;
    ASSERT_EQ(found.logits, expected.logits);
    ASSERT_EQ(found.summary.total, expected.total) << "temperature " << temperature;
    ASSERT_EQ(found.summary.is_unusual, 0U);
  }
};

TEST_F(CudaSampling, RandomRows) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : {1, 2, 3, 1023, 1024, 1025, 5000, 8193, 129280, 163840}) {
    for (const int64_t k : {1, 2, 40, 1000, 1024}) {
      if (k > n) continue;
      for (const float temperature : {0.0F, 1.0F, 0.01F, random_.uniform(0.1F, 5.0F)}) {
        check(random_.normal(n, static_cast<float>(random_.integer(1, 8))), k, temperature);
      }
    }
  }
}

TEST_F(CudaSampling, HostileRows) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : {3000, 129280}) {
    const auto size = static_cast<size_t>(n);
    check(std::vector<float>(size, 1.5F), 100, 1);
    std::vector<float> few(size);
    for (float& v : few) v = static_cast<float>(random_.integer(-2, 2));
    std::vector<float> odd = random_.normal(n, 1e-42F);
    odd[9] = -kInfinity;
    odd[10] = -0.0F;
    odd[11] = 0.0F;
    std::vector<float> offset = random_.normal(n);
    for (float& v : offset) v += 1e6F;
    std::vector<float> alone(size, -kInfinity);
    alone[size - 1] = -7;
    std::vector<float> far(size, -std::numeric_limits<float>::max());
    far[1] = std::numeric_limits<float>::max();
    for (const auto& row : {few, odd, offset, alone, far}) {
      for (const int64_t k : {1, 2, 499, 1024}) check(row, k, 1);
    }
  }
}

// Weights at both sides of every step of the table, and at the end.
TEST_F(CudaSampling, WeightsHaveTheHostsBits) {
  std::vector<float> logits{0};
  for (int step = 0; step <= 41 * kTokenWeightSteps; ++step) {
    const auto at = -static_cast<float>(step) / kTokenWeightSteps;
    for (const float logit : {std::nextafter(at, -100.0F), at, std::nextafter(at, 0.0F)}) {
      logits.push_back(logit);
    }
  }
  // y is the distance itself, nearly.
  const auto temperature = static_cast<float>(kLog2E);
  for (size_t i = 1; i < logits.size(); ++i) check({logits[0], logits[i]}, 1, temperature);
  check(logits, 1024, temperature);
}

TEST_F(CudaSampling, WhatIsNoNumberIsTold) {
  std::vector<float> logits(5000, 1);
  EXPECT_EQ(find(logits, 1, 1).summary.is_unusual, 0U);
  for (const float odd : {kNan, kInfinity}) {
    for (const size_t at : {0U, 4999U}) {
      std::vector<float> with = logits;
      with[at] = odd;
      for (const int64_t k : {1, 7}) EXPECT_EQ(find(with, k, 1).summary.is_unusual, 1U);
    }
  }
  const Found none = find(std::vector<float>(5000, -kInfinity), 3, 1);
  EXPECT_EQ(none.summary.is_unusual, 0U);
  EXPECT_EQ(none.ids, (std::vector<int32_t>{0, 1, 2}));
}

TEST_F(CudaSampling, RefusesWhatItCannotFind) {
  const auto refusal = [&](int64_t n, int64_t k) {
    return error_text([&] { return cuda::find_candidates({.n = n, .k = k}, stream()), 0; });
  };
  EXPECT_NE(refusal(5, 6).find("6 of 5"), std::string::npos);
  EXPECT_NE(refusal(5000, 1025).find("1025 of 5000"), std::string::npos);
  EXPECT_NE(refusal(163841, 1).find("163841"), std::string::npos);
}

}  // namespace
}  // namespace sluice::testing
