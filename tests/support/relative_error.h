// How far one vector is from another, relative to its size.
#pragma once

#include <cassert>
#include <cmath>
#include <cstddef>
#include <span>

namespace sluice::testing {

/// sqrt(sum (actual - expected)^2 / sum expected^2), in double.
inline double relative_rms(std::span<const float> expected, std::span<const float> actual) {
  assert(expected.size() == actual.size());
  double error = 0.0;
  double energy = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    error += difference * difference;
    energy += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(error / energy);
}

}  // namespace sluice::testing
