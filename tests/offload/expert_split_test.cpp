// Rows in whole units, in proportion.
#include "offload/expert_split.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "support/error_text.h"
#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

using Ranges = std::vector<RowRange>;

TEST(ExpertSplit, UnitsSuitTheDownMatrix) {
  EXPECT_EQ(split_unit(quant::DType::kQ8_0), 32);
  EXPECT_EQ(split_unit(quant::DType::kMXFP4), 32);
  EXPECT_EQ(split_unit(quant::DType::kNVFP4), 64);
  EXPECT_EQ(split_unit(quant::DType::kQ4_K), 256);
  EXPECT_EQ(split_unit(quant::DType::kBF16), 32);
}

TEST(ExpertSplit, KnownCases) {
  EXPECT_EQ(split_rows(2048, 64, std::vector<double>{200}), (Ranges{{0, 2048}}));
  EXPECT_EQ(split_rows(2048, 64, std::vector<double>{200, 200}), (Ranges{{0, 1024}, {1024, 2048}}));
  EXPECT_EQ(split_rows(2048, 64, std::vector<double>{300, 100}), (Ranges{{0, 1536}, {1536, 2048}}));
  EXPECT_EQ(split_rows(2048, 256, std::vector<double>{1, 1, 1}),
            (Ranges{{0, 768}, {768, 1536}, {1536, 2048}}));
  EXPECT_EQ(split_rows(256, 256, std::vector<double>{1, 2}), (Ranges{{0, 0}, {0, 256}}));
  EXPECT_EQ(split_rows(45, 32, std::vector<double>{1, 1}), (Ranges{{0, 32}, {32, 45}}));
  EXPECT_EQ(split_rows(0, 32, std::vector<double>{1, 1}), (Ranges{{0, 0}, {0, 0}}));
}

TEST(ExpertSplit, RandomSplitsCoverAllRowsInProportion) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int trial = 0; trial < 500; ++trial) {
    const int64_t unit = int64_t{32} << random.integer(0, 3);
    const int64_t d_expert =
        random.integer(0, 40) * unit + (random.integer(0, 1) != 0 ? random.integer(0, unit) : 0);
    std::vector<double> rates;
    for (int64_t n = random.integer(1, 12); n > 0; --n) {
      rates.push_back(static_cast<double>(random.uniform(0.01F, 500.0F)));
    }
    const double total = std::accumulate(rates.begin(), rates.end(), 0.0);
    const auto ranges = split_rows(d_expert, unit, rates);
    ASSERT_EQ(ranges.size(), rates.size());
    int64_t at = 0;
    for (size_t node = 0; node < rates.size(); ++node) {
      EXPECT_EQ(ranges[node].begin, at);
      EXPECT_GE(ranges[node].size(), 0);
      EXPECT_TRUE(ranges[node].begin % unit == 0 || ranges[node].begin == d_expert);
      at = ranges[node].end;
      const double share = static_cast<double>((d_expert + unit - 1) / unit) * rates[node] / total;
      const double units = std::ceil(static_cast<double>(ranges[node].size()) / static_cast<double>(unit));
      EXPECT_LT(std::abs(units - share), 1.0 + 1e-9) << "largest remainder is never a unit off";
    }
    EXPECT_EQ(at, d_expert);
  }
}

TEST(ExpertSplit, RefusesWhatIsNoBandwidth) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {0.0, -1.0, kNan, std::numeric_limits<double>::infinity()}) {
    const std::string text = testing::error_text([&] {
      return split_rows(64, 32, std::vector<double>{1, bad});
    });
    EXPECT_EQ(text.find("split of the experts: node 1: expected a positive bandwidth, found "), 0) << text;
  }
  EXPECT_EQ(testing::error_text([] { return split_rows(64, 32, std::vector<double>{}); }),
            "split of the experts: expected at least one NUMA node, found none");
}

}  // namespace
}  // namespace sluice::offload
