// Fixture of every test that needs a GPU: skips, saying why, where there is none.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "kernels_cuda/base/device.h"
#include "kernels_cuda/base/stream.h"
#include "support/random_tensors.h"

namespace sluice::testing {

/// Says why no kernel of ours can run here; empty when they can.
inline std::string why_not_on_gpu() {
  if (cuda::device_count() == 0) return "no GPU: " + cuda::why_no_device();
  const cuda::DeviceProperties gpu = cuda::device_properties(0);
  if (!gpu.runs_our_kernels()) return gpu.name + " is older than sm_80";
  return {};
}

class OnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string why = why_not_on_gpu();
    if (!why.empty()) GTEST_SKIP() << why;
    stream_.emplace();
  }
  [[nodiscard]] cudaStream_t stream() const { return stream_->get(); }

  Random random_;

 private:
  std::optional<cuda::Stream> stream_;
};

}  // namespace sluice::testing
