// SwiGLU, sums, bf16 rounding; rope and Hadamard to the CPU's bits.
#include "kernels_cuda/elementwise.h"

#include <cmath>
#include <vector>

#include "kernels_cpu/hadamard.h"
#include "kernels_cpu/rope.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/rope.h"
#include "quant/base/number.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

class CudaElementwise : public OnGpu {};

TEST_F(CudaElementwise, Swiglu) {
  SCOPED_TRACE(random_.describe());
  std::vector<float> gate = random_.normal(10001, 5.0F);
  const std::vector<float> up = random_.normal(10001);
  gate[0] = 100.0F;
  gate[1] = -100.0F;
  gate[2] = -0.0F;
  gate[3] = 1e30F;
  gate[4] = -1e30F;
  std::vector<double> expected;
  for (size_t i = 0; i < gate.size(); ++i) {
    expected.push_back(double{gate[i]} / (1 + std::exp(-double{gate[i]})) * double{up[i]});
  }
  const cuda::DeviceBuffer<float> gate_there(gate);
  const cuda::DeviceBuffer<float> up_there(up);
  cuda::swiglu(gate_there.data(), up_there.data(), 10001, gate_there.data(), stream());
  EXPECT_TRUE(close(gate_there.to_host(stream()), expected, 8 * kRounding, 1e-37));
}

TEST_F(CudaElementwise, AddScaledAndExperts) {
  SCOPED_TRACE(random_.describe());
  const int64_t n = 777;
  const std::vector<float> parts = random_.normal(5 * n);
  const std::vector<float> y = random_.normal(2 * n);
  const std::vector<int32_t> slots = {4, -1, 0, 2, 3, -1};
  const std::vector<float> weights = random_.normal(6);
  std::vector<float> expected = y;
  for (size_t t = 0; t < 2; ++t) {
    for (size_t k = 0; k < 3; ++k) {
      const int32_t slot = slots[t * 3 + k];
      for (size_t i = 0; slot >= 0 && i < static_cast<size_t>(n); ++i) {
        float& sum = expected[t * static_cast<size_t>(n) + i];
        sum = std::fma(weights[t * 3 + k], parts[static_cast<size_t>(slot * n) + i], sum);
      }
    }
  }
  const cuda::DeviceBuffer<float> parts_there(parts);
  const cuda::DeviceBuffer<float> y_there(y);
  const cuda::DeviceBuffer<int32_t> slots_there(slots);
  const cuda::DeviceBuffer<float> weights_there(weights);
  cuda::add_experts({parts_there.data(), slots_there.data(), weights_there.data(), y_there.data(), 2, 3, n},
                    stream());
  EXPECT_TRUE(identical(y_there.to_host(stream()), expected));
  cuda::add_scaled(parts_there.data(), -0.5F, n, y_there.data(), stream());
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) expected[i] = std::fma(-0.5F, parts[i], expected[i]);
  EXPECT_TRUE(identical(y_there.to_host(stream()), expected));
}

TEST_F(CudaElementwise, FindSlots) {
  const std::vector<int32_t> ids = {3, 0, 2, 3, 1};
  const std::vector<int32_t> slot_of = {-1, 7, 0, -1};
  const cuda::DeviceBuffer<int32_t> ids_there(ids);
  const cuda::DeviceBuffer<int32_t> slot_of_there(slot_of);
  const cuda::DeviceBuffer<int32_t> slots(5);
  const cuda::DeviceBuffer<int32_t> parts(5);
  cuda::find_slots({.ids = ids_there.data(),
                    .slot_of = slot_of_there.data(),
                    .slots = slots.data(),
                    .parts = parts.data(),
                    .choices = 5},
                   stream());
  EXPECT_EQ(slots.to_host(stream()), (std::vector<int32_t>{-1, -1, 0, -1, 7}));
  EXPECT_EQ(parts.to_host(stream()), (std::vector<int32_t>{-1, -1, 2, -1, 4}));
}

TEST_F(CudaElementwise, Bf16) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : {50, 52}) {  // alone, and in fours
    std::vector<float> x = random_.normal(3 * n);
    x[0] = std::nanf("");
    x[1] = INFINITY;
    x[2] = 1e-40F;
    x[3] = 3.4e38F;
    const cuda::DeviceBuffer<float> there(x);
    const cuda::DeviceBuffer<uint16_t> y(192);
    cuda::to_bf16({there.data(), n, y.data(), 64, 3, n}, stream());
    const std::vector<uint16_t> got = y.to_host(stream());
    EXPECT_TRUE(std::isnan(bf16_to_f32(got[0])));
    for (size_t i = 1; i < x.size(); ++i) {
      const size_t cols = static_cast<size_t>(n);
      EXPECT_EQ(got[i / cols * 64 + i % cols], f32_to_bf16(x[i])) << i << ", " << n;
    }
  }
}

TEST_F(CudaElementwise, RopeIsTheCpus) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t dims : {2, 64, 128}) {
    for (const cuda::RopeLayout layout : {cuda::RopeLayout::kInterleaved, cuda::RopeLayout::kHalfSplit}) {
      constexpr int64_t kPositions = 1000;
      const std::vector<float> frequencies = cpu::yarn_frequencies({.dims = dims, .factor = 40.0F});
      std::vector<float> table(static_cast<size_t>(kPositions * dims));
      for (int64_t p = 0; p < kPositions; ++p) {
        cpu::rope_angles(frequencies, p,
                         std::span(table).subspan(static_cast<size_t>(p * dims), static_cast<size_t>(dims)));
      }
      const std::vector<int32_t> positions = {0, 999, static_cast<int32_t>(random_.integer(1, 998))};
      const int64_t head_stride = dims + 128;
      const int64_t token_stride = 5 * head_stride + 3;
      const std::vector<float> x = random_.normal(3 * token_stride);
      std::vector<float> expected = x;
      for (size_t t = 0; t < 3; ++t) {
        const auto angles = std::span<const float>(table).subspan(static_cast<size_t>(positions[t] * dims),
                                                                  static_cast<size_t>(dims));
        for (size_t h = 0; h < 5; ++h) {
          const auto at = t * static_cast<size_t>(token_stride) + h * static_cast<size_t>(head_stride) + 128;
          const auto vector = std::span(expected).subspan(at, static_cast<size_t>(dims));
          layout == cuda::RopeLayout::kInterleaved ? cpu::rope_interleaved(angles, vector)
                                                   : cpu::rope_half_split(angles, vector);
        }
      }
      const cuda::DeviceBuffer<float> there(x);
      const cuda::DeviceBuffer<float> table_there(table);
      const cuda::DeviceBuffer<int32_t> positions_there(positions);
      cuda::rope({.x = there.data() + 128,
                  .token_stride = token_stride,
                  .head_stride = head_stride,
                  .n_tokens = 3,
                  .n_heads = 5,
                  .dims = dims,
                  .layout = layout,
                  .cos_sin = table_there.data(),
                  .positions = positions_there.data()},
                 stream());
      EXPECT_TRUE(identical(there.to_host(stream()), expected)) << dims;
    }
  }
}

TEST_F(CudaElementwise, HadamardIsTheCpus) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t n : {1, 2, 32, 64, 128, 1024}) {
    const std::vector<float> x = random_.normal(7 * n);
    std::vector<float> expected = x;
    for (size_t v = 0; v < 7; ++v) {
      cpu::hadamard(std::span(expected).subspan(v * static_cast<size_t>(n), static_cast<size_t>(n)));
    }
    const cuda::DeviceBuffer<float> there(x);
    cuda::hadamard(there.data(), 7, n, stream());
    EXPECT_TRUE(identical(there.to_host(stream()), expected)) << n;
  }
  EXPECT_NE(error_text([&] { return cuda::hadamard(nullptr, 1, 96, stream()), 0; }), "no error");
}

}  // namespace
}  // namespace sluice::testing
