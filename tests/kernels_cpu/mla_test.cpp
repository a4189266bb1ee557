// Absorbed attention over selected rows against double precision, and its promises: it touches selected rows
// only, and a head's result does not depend on the other heads.
#include "kernels_cpu/mla.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quant/block_codec.h"
#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

using quant::DType;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  DType dtype;
  int64_t heads;
  int64_t cached;  // rows in the cache
  int64_t selected;
  int64_t cols;
  int64_t latent;
};

/// A cache whose unselected rows and row padding are NaN.
struct Cache {
  std::vector<float> values;  // [cached, cols] what the cache holds after its rounding
  std::vector<std::byte> bytes;
  std::vector<int32_t> positions;
  cpu::CacheRows rows;
};

Cache make_cache(Random& random, const Shape& shape) {
  Cache cache;
  std::vector<int32_t> all(static_cast<size_t>(shape.cached));
  std::iota(all.begin(), all.end(), 0);
  for (size_t i = 0; i < static_cast<size_t>(shape.selected); ++i) {
    std::swap(all[i], all[static_cast<size_t>(random.integer(static_cast<int64_t>(i), shape.cached - 1))]);
  }
  cache.positions.assign(all.begin(), all.begin() + shape.selected);
  std::ranges::sort(cache.positions);
  const int64_t padded = shape.cols + 8;
  std::vector<float> wide(static_cast<size_t>(shape.cached * padded), kNan);
  for (const int32_t row : cache.positions) {
    std::ranges::copy(random.normal(shape.cols), wide.begin() + row * padded);
  }
  cache.bytes.resize(static_cast<size_t>(quant::row_bytes(shape.dtype, shape.cached * padded)));
  quant::quantize_row(shape.dtype, wide, cache.bytes);
  quant::dequantize_row(shape.dtype, cache.bytes, wide);
  for (int64_t row = 0; row < shape.cached; ++row) {
    cache.values.insert(cache.values.end(), wide.begin() + row * padded,
                        wide.begin() + row * padded + shape.cols);
  }
  cache.rows = {shape.dtype == DType::kF32 ? cpu::RowFormat::kF32 : cpu::RowFormat::kBF16, cache.bytes.data(),
                shape.cols, quant::row_bytes(shape.dtype, padded)};
  return cache;
}

/// One head in double precision: its output, and how far float32 may be from it.
struct Reference {
  std::vector<double> out;
  std::vector<double> allowed;
};

Reference attend(const Shape& shape, const Cache& cache, std::span<const float> query, double scale) {
  std::vector<double> scores;
  double score_error = 0.0;
  for (const int32_t row : cache.positions) {
    double sum = 0.0;
    double magnitude = 0.0;
    for (int64_t c = 0; c < shape.cols; ++c) {
      const double product = static_cast<double>(query[static_cast<size_t>(c)]) *
                             static_cast<double>(cache.values[static_cast<size_t>(row * shape.cols + c)]);
      sum += product;
      magnitude += std::abs(product);
    }
    scores.push_back(scale * sum);
    score_error = std::max(score_error, static_cast<double>(shape.cols + 4) * kRounding * scale * magnitude);
  }
  const double largest = *std::ranges::max_element(scores);
  double total = 0.0;
  for (double& score : scores) {
    score = std::exp(score - largest);
    total += score;
  }
  // An error e in two scores changes a weight by exp(2 e); sums and rescalings add a rounding per row and
  // some more.
  const double relative =
      std::expm1(2 * score_error) + static_cast<double>(2 * shape.selected + 60) * kRounding;
  Reference reference{std::vector<double>(static_cast<size_t>(shape.latent), 0.0),
                      std::vector<double>(static_cast<size_t>(shape.latent), 1e-30)};
  for (size_t j = 0; j < scores.size(); ++j) {
    for (size_t c = 0; c < reference.out.size(); ++c) {
      const auto at = static_cast<size_t>(cache.positions[j] * shape.cols) + c;
      const double term = scores[j] / total * static_cast<double>(cache.values[at]);
      reference.out[c] += term;
      reference.allowed[c] += relative * std::abs(term);
    }
  }
  return reference;
}

class Mla : public EveryIsa {
 protected:
  std::vector<float> run(const Shape& shape, const Cache& cache, std::span<const float> query, int64_t heads,
                         float scale) {
    std::vector<float> out(static_cast<size_t>(heads * shape.latent), kNan);
    std::vector<float> scratch(static_cast<size_t>(cpu::mla_scratch_floats(heads, shape.cols)));
    cpu::mla_attend(kernels_,
                    {{query.data(), heads, shape.cols}, cache.rows, {cache.positions, shape.selected}, scale},
                    {out.data(), heads, shape.latent}, scratch);
    return out;
  }

  void check(const Shape& shape, float magnitude) {
    SCOPED_TRACE(random_.describe());
    SCOPED_TRACE(::testing::Message()
                 << quant::dtype_info(shape.dtype).name << ", " << shape.heads << " heads, " << shape.selected
                 << " of " << shape.cached << " rows, " << shape.cols << "/" << shape.latent);
    constexpr float kScale = 0.1352337789F;
    const Cache cache = make_cache(random_, shape);
    const std::vector<float> query = random_.normal(shape.heads * shape.cols, magnitude);
    const std::vector<float> out = run(shape, cache, query, shape.heads, kScale);
    for (int64_t h = 0; h < shape.heads; ++h) {
      const auto q =
          std::span(query).subspan(static_cast<size_t>(h * shape.cols), static_cast<size_t>(shape.cols));
      const auto actual =
          std::span(out).subspan(static_cast<size_t>(h * shape.latent), static_cast<size_t>(shape.latent));
      const Reference reference = attend(shape, cache, q, static_cast<double>(kScale));
      ASSERT_TRUE(within(actual, reference.out, reference.allowed)) << "head " << h;
      ASSERT_TRUE(identical(run(shape, cache, q, 1, kScale), actual)) << "head " << h << " alone";
    }
  }
};

TEST_P(Mla, AgreesWithDoublePrecisionAndTouchesSelectedRowsOnly) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    check({dtype, 1, 1, 1, 8, 8}, 1.0F);
    check({dtype, 3, 40, 31, 24, 16}, 1.0F);
    check({dtype, 4, 80, 64, 24, 17}, 1.0F);
    check({dtype, 5, 80, 65, 27, 19}, 1.0F);
    check({dtype, 2, 300, 255, 20, 16}, 1.0F);  // one piece, and the least that are two
    check({dtype, 2, 300, 256, 20, 16}, 1.0F);
    check({dtype, 2, 1200, 1111, 20, 16}, 1.0F);
    check({dtype, 8, 400, 256, 576, 512}, 0.3F);
    check({dtype, 2, 3000, 2048, 576, 512}, 0.1F);
    check({dtype, 16, 70, 70, 576, 512}, 3.0F);  // scores of tens: nearly one-hot weights, many rescalings
  }
}

TEST_P(Mla, ManyHeads) {
  check({DType::kBF16, 128, 50, 40, 96, 64}, 1.0F);
}

TEST_P(Mla, AnEmptyListIsTheFirstRows) {
  SCOPED_TRACE(random_.describe());
  const Shape shape{DType::kBF16, 3, 77, 77, 40, 32};
  Cache cache = make_cache(random_, shape);
  const std::vector<float> query = random_.normal(int64_t{3} * 40);
  const std::vector<float> listed = run(shape, cache, query, 3, 0.2F);
  cache.positions.clear();
  EXPECT_TRUE(identical(run(shape, cache, query, 3, 0.2F), listed));
}

TEST_P(Mla, StridedQueryAndOutput) {
  SCOPED_TRACE(random_.describe());
  const Shape shape{DType::kF32, 5, 60, 45, 40, 32};
  const Cache cache = make_cache(random_, shape);
  const std::vector<float> wide = random_.normal(int64_t{5} * 50);
  std::vector<float> packed;
  for (int64_t h = 0; h < 5; ++h) {
    packed.insert(packed.end(), wide.begin() + h * 50, wide.begin() + h * 50 + 40);
  }
  const std::vector<float> expected = run(shape, cache, packed, 5, 0.2F);
  constexpr float kGuard = 55.0F;
  std::vector<float> out(185, kGuard);
  std::vector<float> scratch(static_cast<size_t>(cpu::mla_scratch_floats(5, 40)) + 1);
  cpu::mla_attend(kernels_, {{wide.data(), 5, 40, 50}, cache.rows, {cache.positions, 45}, 0.2F},
                  {out.data(), 5, 32, 37}, std::span(scratch).subspan(1));
  for (size_t h = 0; h < 5; ++h) {
    EXPECT_TRUE(identical(std::span(out).subspan(h * 37, 32), std::span(expected).subspan(h * 32, 32))) << h;
    EXPECT_EQ(out[h * 37 + 32], kGuard);
  }
}

/// As threads do it: any piece and any heads at any time, then merged in order.
TEST_P(Mla, PiecesOfRowsAndHeadsGiveTheBitsOfTheWhole) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t selected : {1, 64, 500, 2048, 2500}) {
    const Shape shape{DType::kBF16, 37, 3000, selected, 40, 32};
    const Cache cache = make_cache(random_, shape);
    const std::vector<float> query = random_.normal(shape.heads * shape.cols);
    const std::vector<float> expected = run(shape, cache, query, shape.heads, 0.2F);
    const cpu::MlaQuery whole{
        {query.data(), shape.heads, shape.cols}, cache.rows, {cache.positions, shape.selected}, 0.2F};
    const int64_t pieces = cpu::mla_pieces(selected);
    ASSERT_LE(pieces, cpu::kMaxMlaPieces);
    std::vector<float> out(static_cast<size_t>(pieces * shape.heads * shape.latent), kNan);
    std::vector<float> max(static_cast<size_t>(pieces * shape.heads), kNan);
    std::vector<float> sum = max;
    std::vector<float> scratch(static_cast<size_t>(cpu::mla_scratch_floats(shape.heads, shape.cols)), kNan);
    const auto partial = [&](int64_t piece) {
      return cpu::MlaPartial{{out.data() + piece * shape.heads * shape.latent, shape.heads, shape.latent},
                             max.data() + piece * shape.heads,
                             sum.data() + piece * shape.heads};
    };
    for (int64_t piece = pieces; piece-- > 0;) {
      for (int64_t begin = 0; begin < shape.heads;) {
        const int64_t count = random_.integer(1, shape.heads - begin);
        cpu::MlaQuery part = whole;
        part.heads = whole.heads.rows_from(begin, count);
        cpu::mla_attend_piece(kernels_, part, piece, partial(piece).heads(begin, count), scratch);
        begin += count;
      }
    }
    for (int64_t piece = 1; piece < pieces; ++piece) {
      cpu::mla_merge(kernels_, partial(piece), partial(0));
    }
    cpu::mla_normalize(kernels_, partial(0));
    EXPECT_TRUE(identical(std::span(out).first(expected.size()), expected)) << selected << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Mla, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
