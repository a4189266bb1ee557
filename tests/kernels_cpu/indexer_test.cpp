// The lightning indexer's scores against double precision, and their independence of the number of keys.
#include "kernels_cpu/indexer.h"

#include <algorithm>
#include <cmath>

#include "quant/block_codec.h"
#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

using quant::DType;

struct Keys {
  std::vector<float> values;  // [n, dim] after the cache's rounding
  std::vector<std::byte> bytes;
  cpu::CacheRows rows;
};

Keys make_keys(Random& random, DType dtype, int64_t n, int64_t dim) {
  Keys keys;
  keys.values = random.normal(n * dim);
  keys.bytes.resize(static_cast<size_t>(quant::row_bytes(dtype, n * dim)));
  quant::quantize_row(dtype, keys.values, keys.bytes);
  quant::dequantize_row(dtype, keys.bytes, keys.values);
  keys.rows = {dtype == DType::kF32 ? cpu::RowFormat::kF32 : cpu::RowFormat::kBF16, keys.bytes.data(), dim,
               quant::row_bytes(dtype, dim)};
  return keys;
}

class Indexer : public EveryIsa {
 protected:
  std::vector<float> run(const std::vector<float>& query, const std::vector<float>& weights,
                         const cpu::CacheRows& rows, int64_t n) {
    const auto heads = static_cast<int64_t>(weights.size());
    std::vector<float> scores(static_cast<size_t>(n));
    std::vector<float> scratch(static_cast<size_t>(cpu::index_scratch_floats(heads, rows.cols)));
    cpu::index_scores(kernels_, {{query.data(), 1, heads * rows.cols}, {weights.data(), 1, heads}}, rows,
                      {scores.data(), 1, n}, scratch);
    return scores;
  }

  void check(DType dtype, int64_t heads, int64_t n, int64_t dim) {
    SCOPED_TRACE(::testing::Message() << heads << " heads, " << n << " keys of " << dim);
    const Keys keys = make_keys(random_, dtype, n, dim);
    const std::vector<float> query = random_.normal(heads * dim);
    const std::vector<float> weights = random_.normal(heads);
    std::vector<double> expected(static_cast<size_t>(n), 0.0);
    std::vector<double> allowed(static_cast<size_t>(n), 0.0);
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t h = 0; h < heads; ++h) {
        double product = 0.0;
        double magnitude = 0.0;
        for (int64_t c = 0; c < dim; ++c) {
          const double term = static_cast<double>(query[static_cast<size_t>(h * dim + c)]) *
                              static_cast<double>(keys.values[static_cast<size_t>(j * dim + c)]);
          product += term;
          magnitude += std::abs(term);
        }
        const auto weight = static_cast<double>(weights[static_cast<size_t>(h)]);
        expected[static_cast<size_t>(j)] += weight * std::max(0.0, product);
        allowed[static_cast<size_t>(j)] +=
            std::abs(weight) * static_cast<double>(dim + heads + 4) * kRounding * magnitude;
      }
    }
    EXPECT_TRUE(within(run(query, weights, keys.rows, n), expected, allowed));
  }
};

TEST_P(Indexer, AgreesWithDoublePrecision) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    check(dtype, 64, 100, 128);
    check(dtype, 1, 1, 1);
    check(dtype, 3, 31, 20);
    check(dtype, 5, 33, 33);
    check(dtype, 2, 64, 64);
  }
}

TEST_P(Indexer, AKeysScoreDoesNotDependOnTheOthers) {
  SCOPED_TRACE(random_.describe());
  const Keys keys = make_keys(random_, DType::kBF16, 150, 128);
  const std::vector<float> query = random_.normal(int64_t{7} * 128);
  const std::vector<float> weights = random_.normal(7);
  const std::vector<float> all = run(query, weights, keys.rows, 150);
  for (int trial = 0; trial < 30; ++trial) {
    const int64_t begin = random_.integer(0, 149);
    const int64_t n = random_.integer(1, 150 - begin);
    cpu::CacheRows part = keys.rows;
    part.data += begin * part.row_bytes;
    const auto expected = std::span(all).subspan(static_cast<size_t>(begin), static_cast<size_t>(n));
    ASSERT_TRUE(identical(run(query, weights, part, n), expected)) << begin << "+" << n;
  }
}

TEST_P(Indexer, AQuerysScoresDoNotDependOnTheOthers) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kKeys = 77;
  constexpr int64_t kHeads = 19;
  constexpr int64_t kDim = 40;
  constexpr int64_t kStride = 90;  // of a row of scores
  constexpr float kGuard = 55.0F;
  const Keys keys = make_keys(random_, DType::kBF16, kKeys, kDim);
  for (int64_t n = 1; n <= cpu::kMaxIndexQueries; ++n) {
    const std::vector<float> query = random_.normal(n * kHeads * kDim);
    const std::vector<float> weights = random_.normal(n * kHeads);
    std::vector<float> scores(static_cast<size_t>(n * kStride), kGuard);
    std::vector<float> scratch(static_cast<size_t>(cpu::index_scratch_floats(kHeads, kDim)));
    cpu::index_scores(kernels_, {{query.data(), n, kHeads * kDim}, {weights.data(), n, kHeads}}, keys.rows,
                      {scores.data(), n, kKeys, kStride}, scratch);
    for (int64_t q = 0; q < n; ++q) {
      const auto own = [q](const std::vector<float>& values, int64_t width) {
        return std::vector<float>(values.begin() + q * width, values.begin() + (q + 1) * width);
      };
      const std::vector<float> alone = run(own(query, kHeads * kDim), own(weights, kHeads), keys.rows, kKeys);
      const auto row = std::span(scores).subspan(static_cast<size_t>(q * kStride));
      EXPECT_TRUE(identical(row.first(static_cast<size_t>(kKeys)), alone)) << q << " of " << n;
      EXPECT_EQ(row[static_cast<size_t>(kKeys)], kGuard);
    }
  }
}

TEST_P(Indexer, NoKeysAreNoScores) {
  const Keys keys = make_keys(random_, DType::kBF16, 1, 16);
  EXPECT_TRUE(run(random_.normal(32), {1.0F, 2.0F}, keys.rows, 0).empty());
}

INSTANTIATE_TEST_SUITE_P(Isa, Indexer, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
