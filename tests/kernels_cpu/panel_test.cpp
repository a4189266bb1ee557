// The panel kernels of every instruction set: against decoded weights in double precision, and against each
// other bit for bit.
#include "kernels_cpu/panel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "quant/block_codec.h"
#include "quant/panel.h"
#include "support/compare.h"
#include "support/every_isa.h"
#include "support/random_tensors.h"

namespace sluice::cpu {
namespace {

using quant::DType;
using quant::kPanelRows;
using testing::kRounding;

constexpr float kUnwritten = std::numeric_limits<float>::quiet_NaN();

std::vector<DType> types(bool int8) {
  std::vector<DType> found;
  for (const quant::DTypeInfo& info : quant::all_dtypes()) {
    if (quant::can_dequantize(info.dtype) && takes_int8(info.dtype) == int8) found.push_back(info.dtype);
  }
  return found;
}

/// A panel of random blocks whose scales are finite, with its decoded values.
struct TestPanel {
  TestPanel(DType dtype, int64_t rows, int64_t cols, testing::Random& random)
      : layout(quant::panel_layout(dtype, cols)),
        bytes(static_cast<size_t>(layout.panel_bytes)),
        values(static_cast<size_t>(kPanelRows * cols)) {
    const int64_t row_bytes = quant::row_bytes(dtype, cols);
    std::vector<std::byte> blocks = random.bytes(rows * row_bytes);
    for (int64_t r = 0; r < rows; ++r) {
      const std::span<std::byte> row(blocks.data() + r * row_bytes, static_cast<size_t>(row_bytes));
      make_finite(dtype, row, random);
      quant::dequantize_row(
          dtype, row, std::span(values).subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols)));
    }
    quant::pack_panel(layout, {dtype, blocks.data(), rows, cols, row_bytes, 1.0F}, bytes);
  }

  /// Random bytes until the block decodes to numbers of moderate size; subnormal and zero scales stay in.
  static void make_finite(DType dtype, std::span<std::byte> row, testing::Random& random) {
    const auto block_bytes = static_cast<size_t>(quant::dtype_info(dtype).bytes_per_block);
    std::vector<float> decoded(static_cast<size_t>(quant::dtype_info(dtype).elements_per_block));
    for (size_t at = 0; at < row.size(); at += block_bytes) {
      const std::span<std::byte> block = row.subspan(at, block_bytes);
      for (;;) {
        quant::dequantize_row(dtype, block, decoded);
        if (std::ranges::all_of(decoded, [](float v) { return std::abs(v) < 1e9F; })) break;
        const std::vector<std::byte> fresh = random.bytes(static_cast<int64_t>(block_bytes));
        std::ranges::copy(fresh, block.begin());
      }
    }
  }

  quant::PanelLayout layout;
  std::vector<std::byte> bytes;
  std::vector<float> values;  // [16, cols]
};

struct Quantized {
  Quantized(const PanelKernels& kernels, DType dtype, const std::vector<float>& x, int64_t n_tokens)
      : cols(static_cast<int64_t>(x.size()) / n_tokens), tokens(n_tokens) {
    const PanelNumerics numerics = panel_numerics(dtype);
    codes.resize(x.size());
    scales.resize(x.size() / 32);
    terms.resize(x.size() / static_cast<size_t>(numerics.group));
    for (int64_t t = 0; t < tokens; ++t) {
      kernels.quantize(x.data() + t * cols, cols, numerics,
                       {codes.data() + t * cols, scales.data() + t, terms.data() + t, tokens});
    }
  }
  [[nodiscard]] ActivationView view() const {
    return {codes.data(), scales.data(), terms.data(), tokens, cols, tokens};
  }

  int64_t cols;
  int64_t tokens;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> terms;
};

class Panel : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { ASSERT_EQ(kernels_.isa, GetParam()); }
  [[nodiscard]] PanelKernels::DotFn dot(DType dtype) const {
    return kernels_.dot[static_cast<size_t>(dtype)];
  }

  const PanelKernels& kernels_ = panel_kernels_for(GetParam());
  const PanelKernels& scalar_ = panel_kernels_for(Isa::kScalar);
  testing::Random random_;
};

/// What the parts of w[row][k] add up to. Q4_K and Q5_K subtract a minimum from a product of about the same
/// size, so theirs is the largest weight of the sub-block, not the one that cancellation left.
double part_magnitude(const TestPanel& panel, int64_t row, int64_t k) {
  const bool cancels = panel.layout.dtype == DType::kQ4_K || panel.layout.dtype == DType::kQ5_K;
  const int64_t begin = cancels ? k / 32 * 32 : k;
  double largest = 0;
  for (int64_t i = begin; i < (cancels ? begin + 32 : k + 1); ++i) {
    largest =
        std::max(largest, std::abs(double{panel.values[static_cast<size_t>(row * panel.layout.cols + i)]}));
  }
  return largest * (cancels ? 4 : 1);
}

/// cols of up to three blocks of 256.
int64_t some_cols(DType dtype, testing::Random& random) {
  const int64_t block = std::max<int64_t>(quant::dtype_info(dtype).elements_per_block, 32);
  return block * random.integer(1, 768 / block);
}

/// The products in double precision and what float32 sums may differ from them by.
struct Expected {
  Expected(const TestPanel& panel, const Quantized& x)
      : values(static_cast<size_t>(x.tokens * kPanelRows)), allowed(values.size()) {
    for (size_t at = 0; at < values.size(); ++at) {
      const auto t = static_cast<int64_t>(at) / kPanelRows;
      const auto r = static_cast<int64_t>(at) % kPanelRows;
      double magnitude = 0;
      for (int64_t k = 0; k < x.cols; ++k) {
        const double activation = x.codes[static_cast<size_t>(t * x.cols + k)] *
                                  double{x.scales[static_cast<size_t>(k / 32 * x.tokens + t)]};
        values[at] += panel.values[static_cast<size_t>(r * x.cols + k)] * activation;
        magnitude += part_magnitude(panel, r, k) * std::abs(activation);
      }
      // Roundings: one sum per block, and in a block the scale and up to two parts.
      allowed[at] = (static_cast<double>(x.cols) / 32 + 6) * kRounding * magnitude + 1e-30;
    }
  }
  std::vector<double> values;
  std::vector<double> allowed;
};

TEST_P(Panel, DotAgreesWithDecodedWeights) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : types(true)) {
    for (const int64_t tokens : {1, 2, 7, 9, 33}) {
      const int64_t cols = some_cols(dtype, random_);
      const TestPanel panel(dtype, random_.integer(1, kPanelRows), cols, random_);
      const Quantized x(kernels_, dtype, random_.normal(tokens * cols), tokens);
      std::vector<float> out(static_cast<size_t>(tokens * kPanelRows), kUnwritten);
      dot(dtype)(panel.layout, panel.bytes.data(), {0, cols / 32}, x.view(), out.data());
      const Expected expected(panel, x);
      ASSERT_TRUE(testing::within(out, expected.values, expected.allowed))
          << quant::dtype_info(dtype).name << ' ' << tokens << " tokens, " << cols << " columns";
    }
  }
}

TEST_P(Panel, EveryIsaGivesTheScalarBits) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : types(true)) {
    for (int trial = 0; trial < 8; ++trial) {
      const int64_t cols = some_cols(dtype, random_);
      const int64_t tokens = random_.integer(1, trial == 0 ? 150 : 20);
      const TestPanel panel(dtype, random_.integer(1, kPanelRows), cols, random_);
      const std::vector<float> x = random_.normal(tokens * cols, trial % 2 == 0 ? 1.0F : 1e-20F);
      const Quantized mine(kernels_, dtype, x, tokens);
      const Quantized theirs(scalar_, dtype, x, tokens);
      ASSERT_EQ(mine.codes, theirs.codes);
      ASSERT_EQ(mine.terms, theirs.terms);
      ASSERT_TRUE(testing::identical(mine.scales, theirs.scales));
      std::vector<float> out(static_cast<size_t>(tokens * kPanelRows), kUnwritten);
      std::vector<float> expected(out.size());
      dot(dtype)(panel.layout, panel.bytes.data(), {0, cols / 32}, mine.view(), out.data());
      scalar_.dot[static_cast<size_t>(dtype)](panel.layout, panel.bytes.data(), {0, cols / 32}, theirs.view(),
                                              expected.data());
      ASSERT_TRUE(testing::identical(out, expected))
          << quant::dtype_info(dtype).name << ' ' << tokens << " x " << cols;
    }
  }
}

TEST_P(Panel, ABatchGivesTheBitsOfItsTokensAndOfItsPieces) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : types(true)) {
    const int64_t cols = 1536;  // more than a decoded chunk of 32 blocks
    const int64_t tokens = random_.integer(9, 40);
    const TestPanel panel(dtype, kPanelRows, cols, random_);
    const Quantized x(kernels_, dtype, random_.normal(tokens * cols), tokens);
    std::vector<float> out(static_cast<size_t>(tokens * kPanelRows), kUnwritten);
    dot(dtype)(panel.layout, panel.bytes.data(), {0, cols / 32}, x.view(), out.data());
    std::vector<float> in_pieces(out.size(), kUnwritten);
    int64_t done = 0;
    while (done < cols / 32) {
      const int64_t next = random_.integer(done + 1, cols / 32);
      dot(dtype)(panel.layout, panel.bytes.data(), {done, next}, x.view(), in_pieces.data());
      done = next;
    }
    ASSERT_TRUE(testing::identical(in_pieces, out)) << quant::dtype_info(dtype).name;
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<float> one(kPanelRows);
      dot(dtype)(panel.layout, panel.bytes.data(), {0, cols / 32}, x.view().tokens_from(t, 1), one.data());
      ASSERT_TRUE(testing::identical(
          std::span<const float>(out).subspan(static_cast<size_t>(t * kPanelRows), kPanelRows), one))
          << quant::dtype_info(dtype).name << " token " << t;
    }
  }
}

TEST_P(Panel, TwoPanelsTogetherGiveTheBitsOfEach) {
  if (kernels_.pair_dot[static_cast<size_t>(DType::kQ8_0)] == nullptr) {
    GTEST_SKIP() << "these kernels take one panel at a time";
  }
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : types(true)) {
    for (int trial = 0; trial < 4; ++trial) {
      const int64_t cols = trial == 0 ? 1536 : some_cols(dtype, random_);
      const int64_t tokens = random_.integer(kFewTokens + 1, 60);
      const TestPanel first(dtype, kPanelRows, cols, random_);
      const TestPanel second(dtype, random_.integer(1, kPanelRows), cols, random_);
      const Quantized x(kernels_, dtype, random_.normal(tokens * cols), tokens);
      std::vector<float> out[2];
      out[0].assign(static_cast<size_t>(tokens * kPanelRows), kUnwritten);
      out[1] = out[0];
      const PanelPair pair{first.bytes.data(), second.bytes.data(), out[0].data(), out[1].data()};
      for (int64_t done = 0; done < cols / 32;) {
        const BlockRange range{done, random_.integer(done + 1, cols / 32)};
        kernels_.pair_dot[static_cast<size_t>(dtype)](first.layout, pair, range, x.view());
        done = range.end;
      }
      for (const int p : {0, 1}) {
        const TestPanel& panel = p == 0 ? first : second;
        std::vector<float> expected(out[0].size());
        dot(dtype)(panel.layout, panel.bytes.data(), {0, cols / 32}, x.view(), expected.data());
        ASSERT_TRUE(testing::identical(out[p], expected))
            << quant::dtype_info(dtype).name << " panel " << p << ", " << tokens << " x " << cols;
      }
    }
  }
}

// What AMX does with many tokens: bf16 factors, float32 sums.
TEST_P(Panel, TilesAgreeWithDecodedWeights) {
  if (kernels_.tiles.pack == nullptr) GTEST_SKIP() << "these kernels have no matrix instructions";
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : types(true)) {
    for (const int64_t tokens : {1, 16, 33, 57, 64}) {
      const int64_t cols = some_cols(dtype, random_) * (tokens == 64 ? 3 : 1);
      const TestPanel panel(dtype, random_.integer(1, kPanelRows), cols, random_);
      const Quantized x(kernels_, dtype, random_.normal(tokens * cols), tokens);
      std::vector<float> out(static_cast<size_t>(tokens * kPanelRows), kUnwritten);
      for (int64_t done = 0; done < cols / 32;) {
        const BlockRange range{
            done, random_.integer(done + 1, std::min(cols / 32, done + PanelTiles::kMostBlocks))};
        const auto elements = static_cast<size_t>(PanelTiles::packed_size(range.end - range.begin, tokens));
        std::vector<uint16_t> memory(elements + 32);
        void* at = memory.data();
        size_t room = memory.size() * sizeof(uint16_t);
        auto* const packed = static_cast<uint16_t*>(std::align(64, elements * sizeof(uint16_t), at, room));
        kernels_.tiles.begin();
        kernels_.tiles.pack(range, x.view(), packed);
        kernels_.tiles.dot[static_cast<size_t>(dtype)](panel.layout, panel.bytes.data(), range, packed,
                                                       tokens, out.data());
        kernels_.tiles.end();
        done = range.end;
      }
      Expected expected(panel, x);
      for (double& allowed : expected.allowed) {  // was for float32 sums of float32 products
        allowed *= 0x1p-7 / kRounding / (static_cast<double>(cols) / 32 + 6) + static_cast<double>(cols);
      }
      ASSERT_TRUE(testing::within(out, expected.values, expected.allowed))
          << quant::dtype_info(dtype).name << ' ' << tokens << " tokens, " << cols << " columns";
    }
  }
}

TEST_P(Panel, FloatDotAgreesWithDecodedWeightsAndTheScalarBits) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : types(false)) {
    for (const int64_t cols : {1, 2, 3, 5, 64, 257}) {
      const int64_t tokens = random_.integer(1, 9);
      const int64_t stride = cols + random_.integer(0, 5);
      const TestPanel panel(dtype, random_.integer(1, kPanelRows), cols, random_);
      const std::vector<float> x = random_.normal(tokens * stride);
      std::vector<float> out(static_cast<size_t>(tokens * kPanelRows), kUnwritten);
      std::vector<float> scalar(out.size());
      std::vector<double> expected(out.size());
      std::vector<double> allowed(out.size());
      const auto type = static_cast<size_t>(dtype);
      kernels_.float_dot[type](panel.layout, panel.bytes.data(), x.data(), stride, tokens, out.data());
      scalar_.float_dot[type](panel.layout, panel.bytes.data(), x.data(), stride, tokens, scalar.data());
      for (size_t at = 0; at < out.size(); ++at) {
        for (int64_t k = 0; k < cols; ++k) {
          const double product =
              static_cast<double>(
                  panel.values[at % kPanelRows * static_cast<size_t>(cols) + static_cast<size_t>(k)]) *
              static_cast<double>(x[at / kPanelRows * static_cast<size_t>(stride) + static_cast<size_t>(k)]);
          expected[at] += product;
          allowed[at] += (static_cast<double>(cols) / 4 + 4) * kRounding * std::abs(product);
        }
        allowed[at] += 1e-35;
      }
      ASSERT_TRUE(testing::within(out, expected, allowed)) << quant::dtype_info(dtype).name << ' ' << cols;
      ASSERT_TRUE(testing::identical(out, scalar)) << quant::dtype_info(dtype).name << ' ' << cols;
    }
  }
}

TEST_P(Panel, QuantizingKeepsTheErrorOfHalfAStep) {
  SCOPED_TRACE(random_.describe());
  const std::vector<float> x = random_.normal(4096);
  const Quantized q(kernels_, DType::kNVFP4, x, 1);
  double error = 0;
  double expected = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const float back = static_cast<float>(q.codes[i]) * q.scales[i / 32];
    EXPECT_LE(std::abs(back - x[i]), 0.5001F * q.scales[i / 32]);
    error += std::pow(back - x[i], 2);
    expected += std::pow(q.scales[i / 32], 2) / 12;  // the variance of an error that is uniform over a step
  }
  EXPECT_NEAR(std::sqrt(error / expected), 1.0, 0.06);  // of 4096 errors: its standard deviation is 0.007
  for (size_t g = 0; g < q.terms.size(); ++g) {
    int32_t sum = 0;
    for (size_t i = 0; i < 16; ++i) sum += q.codes[16 * g + i];
    EXPECT_EQ(q.terms[g], -16 * sum);
  }
}

TEST_P(Panel, HostileActivations) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> x(size_t{32} * 6, 0.0F);
  x[32] = 1e-38F;  // too small to have a reciprocal: zeros
  x[64] = 3e38F;   // near the largest
  x[96 + 5] = kNan;
  x[128 + 31] = -kInfinity;
  x[160] = -0.0F;
  const Quantized q(kernels_, DType::kQ8_0, x, 1);
  EXPECT_EQ(q.scales[0], 0.0F);
  EXPECT_EQ(q.scales[1], 0.0F);
  EXPECT_EQ(q.codes[32], 0);
  EXPECT_EQ(q.codes[64], 127);
  EXPECT_TRUE(std::isnan(q.scales[3]));
  EXPECT_TRUE(std::isinf(q.scales[4]));
  EXPECT_EQ(q.scales[5], 0.0F);
  for (const int8_t code : q.codes) EXPECT_GE(code, -127);
  const TestPanel panel(DType::kQ8_0, kPanelRows, 32, random_);
  for (const int64_t block : {3, 4}) {
    std::vector<float> out(kPanelRows);
    const ActivationView bad{
        q.codes.data() + 32 * block, q.scales.data() + block, q.terms.data() + block, 1, 32, 1};
    dot(DType::kQ8_0)(panel.layout, panel.bytes.data(), {0, 1}, bad, out.data());
    for (const float y : out) EXPECT_FALSE(std::isfinite(y));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Panel, ::testing::ValuesIn(supported_isas()), testing::isa_of);

}  // namespace
}  // namespace sluice::cpu
