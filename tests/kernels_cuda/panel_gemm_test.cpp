// The grouped product of panels against bf16 weights in double.
#include "kernels_cuda/panel_gemm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "quant/base/number.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"
#include "support/random_panels.h"

namespace sluice::testing {
namespace {

using quant::DType;

class CudaPanelGemm : public OnGpu {};

/// Choices sorted by expert.
struct Groups {
  std::vector<int32_t> begins;  // [experts + 1]
  std::vector<int32_t> tokens;  // of a slot
};

Groups group(const std::vector<int32_t>& ids, int64_t used, int64_t experts) {
  Groups groups;
  for (int32_t e = 0; e < experts; ++e) {
    groups.begins.push_back(static_cast<int32_t>(groups.tokens.size()));
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == e) groups.tokens.push_back(static_cast<int32_t>(static_cast<int64_t>(i) / used));
    }
  }
  groups.begins.push_back(static_cast<int32_t>(groups.tokens.size()));
  return groups;
}

/// Every type, with few tokens for an expert (tiles of 32, of 4 experts' 2 choices), with more (64) and with
/// many.
std::vector<std::pair<quant::DTypeInfo, int64_t>> types_and_tokens(Random& random) {
  std::vector<std::pair<quant::DTypeInfo, int64_t>> cases;
  for (const quant::DTypeInfo& info : quant::all_dtypes()) {
    if (!cuda::panel_gemm_takes(info.dtype)) continue;
    cases.emplace_back(info, random.integer(1, 42));
    cases.emplace_back(info, random.integer(43, 128));
    cases.emplace_back(info, random.integer(140, 400));
  }
  return cases;
}

TEST_F(CudaPanelGemm, ExpertsWithTheirTokens) {
  SCOPED_TRACE(random_.describe());
  for (const auto& [info, tokens] : types_and_tokens(random_)) {
    constexpr int64_t kExperts = 4;
    constexpr int64_t kUsed = 2;
    const int64_t cols = info.elements_per_block *
                         (info.elements_per_block == 256 ? random_.integer(1, 3) : random_.integer(1, 9));
    const int64_t rows = random_.integer(1, 300);
    std::vector<RandomPanels> experts;
    std::vector<std::byte> bytes;
    for (int64_t e = 0; e < kExperts; ++e) {
      experts.emplace_back(info.dtype, rows, cols, random_);
      bytes.insert(bytes.end(), experts.back().panels.begin(), experts.back().panels.end());
    }
    std::vector<int32_t> ids;  // expert 2 has no token
    for (int64_t i = 0; i < tokens * kUsed; ++i) {
      const auto e = static_cast<int32_t>(random_.integer(0, 2));
      ids.push_back(e == 2 ? 3 : e);
    }
    const Groups groups = group(ids, kUsed, kExperts);
    const cuda::DeviceBuffer<int32_t> begins_there(groups.begins);
    const cuda::DeviceBuffer<int32_t> tokens_there(groups.tokens);
    const std::vector<float> scales = {1.0F, 0.25F, 7.0F, 1.3F};
    const int64_t x_stride = (cols + 7) / 8 * 8 + 8;
    std::vector<uint16_t> x;
    for (const float v : random_.normal(tokens * x_stride)) x.push_back(f32_to_bf16(v));
    const cuda::DeviceBuffer<std::byte> panels(bytes);
    const cuda::DeviceBuffer<float> scales_there(scales);
    const cuda::DeviceBuffer<uint16_t> x_there(x);
    const int64_t slots = tokens * kUsed;
    const cuda::DeviceBuffer<float> y(slots * (rows + 3));
    y.fill_bytes(0xFF, stream());
    const cuda::PanelGemm gemm{
        .w = {.first = {.layout = experts[0].layout, .data = panels.data(), .rows = rows},
              .expert_bytes = static_cast<int64_t>(experts[0].panels.size()),
              .scales = scales_there.data(),
              .experts = kExperts},
        .x = x_there.data(),
        .x_stride = x_stride,
        .begins = begins_there.data(),
        .tokens = tokens_there.data(),
        .slots = slots,
        .y = y.data(),
        .y_stride = rows + 3};
    cuda::panel_gemm(gemm, stream());
    const std::vector<float> got = y.to_host(stream());
    for (int i = 0; i < 3; ++i) {
      cuda::panel_gemm(gemm, stream());
      EXPECT_TRUE(identical(y.to_host(stream()), got));
    }
    for (int64_t s = 0; s < slots; ++s) {
      const auto e = static_cast<size_t>(std::ranges::upper_bound(groups.begins, static_cast<int32_t>(s)) -
                                         groups.begins.begin() - 1);
      const auto token = static_cast<int64_t>(groups.tokens[static_cast<size_t>(s)]);
      std::vector<double> expected;
      std::vector<double> allowed;
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        double magnitude = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const double product =
              double{bf16_to_f32(f32_to_bf16(experts[e].values[static_cast<size_t>(r * cols + k)]))} *
              double{bf16_to_f32(x[static_cast<size_t>(token * x_stride + k)])};
          sum += product;
          magnitude += std::abs(product);
        }
        expected.push_back(sum * double{scales[e]});
        allowed.push_back(magnitude * double{scales[e]} * 2 * static_cast<double>(cols) * kRounding + 1e-35);
      }
      ASSERT_TRUE(
          within(std::span(got).subspan(static_cast<size_t>(s * (rows + 3)), static_cast<size_t>(rows)),
                 expected, allowed))
          << info.name << ' ' << rows << " x " << cols << " slot " << s;
      ASSERT_TRUE(std::isnan(got[static_cast<size_t>(s * (rows + 3) + rows)]));
    }
  }
}

TEST_F(CudaPanelGemm, RefusesFloatPanels) {
  cuda::PanelGemm gemm;
  gemm.slots = 1;
  gemm.w.first.layout = quant::panel_layout(DType::kBF16, 64);
  EXPECT_EQ(error_text([&] { return cuda::panel_gemm(gemm, stream()), 0; }),
            "panel_gemm: expected a quantized type, found BF16");
}

}  // namespace
}  // namespace sluice::testing
