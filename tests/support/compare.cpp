// Comparison of arrays of floats.
#include "support/compare.h"

#include <fmt/format.h>
#include <algorithm>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace sluice::testing {

using ::testing::AssertionFailure;
using ::testing::AssertionResult;
using ::testing::AssertionSuccess;

AssertionResult within(std::span<const float> actual, std::span<const double> expected,
                       std::span<const double> allowed) {
  if (actual.size() != expected.size() || allowed.size() != expected.size()) {
    return AssertionFailure() << fmt::format("{} values, {} expected, {} bounds", actual.size(),
                                             expected.size(), allowed.size());
  }
  size_t worst = 0;
  double worst_excess = 0.0;
  size_t failures = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const auto value = static_cast<double>(actual[i]);
    const double error = value == expected[i] ? 0.0 : std::abs(value - expected[i]);
    if (error <= allowed[i]) {
      continue;
    }
    ++failures;
    const double excess = std::isnan(error) ? std::numeric_limits<double>::infinity() : error / allowed[i];
    if (failures == 1 || excess > worst_excess) {
      worst = i;
      worst_excess = excess;
    }
  }
  if (failures == 0) {
    return AssertionSuccess();
  }
  return AssertionFailure() << fmt::format(
             "{} of {} values differ; worst at {}: {:.9g}, expected {:.12g} +- {:.3g}", failures,
             actual.size(), worst, actual[worst], expected[worst], allowed[worst]);
}

AssertionResult close(std::span<const float> actual, std::span<const double> expected, double relative,
                      double absolute) {
  std::vector<double> allowed;
  allowed.reserve(expected.size());
  for (const double value : expected) {
    allowed.push_back(relative * (std::isfinite(value) ? std::abs(value) : 0.0) + absolute);
  }
  return within(actual, expected, allowed);
}

AssertionResult close(std::span<const float> actual, std::span<const float> expected, double relative,
                      double absolute) {
  return close(actual, to_double(expected), relative, absolute);
}

AssertionResult identical(std::span<const float> actual, std::span<const float> expected) {
  if (actual.size() != expected.size()) {
    return AssertionFailure() << fmt::format("{} values, {} expected", actual.size(), expected.size());
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    const bool both_nan = std::isnan(actual[i]) && std::isnan(expected[i]);
    const auto bits = std::bit_cast<uint32_t>(actual[i]);
    const auto expected_bits = std::bit_cast<uint32_t>(expected[i]);
    if (bits != expected_bits && !both_nan) {
      return AssertionFailure() << fmt::format(
                 "first difference of {} values at {}: {:.9g} ({:#010x}), expected "
                 "{:.9g} ({:#010x})",
                 actual.size(), i, actual[i], bits, expected[i], expected_bits);
    }
  }
  return AssertionSuccess();
}

std::vector<double> row_errors(std::span<const float> a, std::span<const float> b, int64_t rows) {
  std::vector<double> errors;
  const size_t cols = a.size() / static_cast<size_t>(rows);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    double error = 0;
    double total = 0;
    for (size_t i = r * cols; i < (r + 1) * cols; ++i) {
      error += std::pow(double{a[i]} - double{b[i]}, 2);
      total += std::pow(double{b[i]}, 2);
    }
    errors.push_back(std::sqrt(error / total));
  }
  std::ranges::sort(errors);
  return errors;
}

double at_share(std::span<const double> ascending, double share) {
  return ascending[static_cast<size_t>(share * static_cast<double>(ascending.size() - 1))];
}

std::vector<double> to_double(std::span<const float> values) {
  return {values.begin(), values.end()};
}

}  // namespace sluice::testing
