// Comparison of arrays of floats: a failure names the worst index, both values and what was allowed there.
// The seed comes from SCOPED_TRACE(random.describe()).
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::testing {

/// Half the distance from 1 to the next float: the relative error of one rounding.
inline constexpr double kRounding = 0x1p-24;

/// actual[i] within allowed[i] of expected[i] for all i. Equal infinities agree, a NaN agrees with nothing.
::testing::AssertionResult within(std::span<const float> actual, std::span<const double> expected,
                                  std::span<const double> allowed);

/// The same with one rule: |actual - expected| <= relative * |expected| + absolute.
::testing::AssertionResult close(std::span<const float> actual, std::span<const double> expected,
                                 double relative, double absolute);
::testing::AssertionResult close(std::span<const float> actual, std::span<const float> expected,
                                 double relative, double absolute);

/// The same bits everywhere; any NaN equals any NaN.
::testing::AssertionResult identical(std::span<const float> actual, std::span<const float> expected);

/// |a - b| / |b| of each of `rows` rows, ascending: where a choice of experts or positions flips, some rows
/// are spoiled and not most.
std::vector<double> row_errors(std::span<const float> a, std::span<const float> b, int64_t rows);
/// What `share` (0 to 1) of ascending values do not exceed.
double at_share(std::span<const double> ascending, double share);

std::vector<double> to_double(std::span<const float> values);

}  // namespace sluice::testing
