// How far two selections agree.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

namespace sluice::testing {

/// The part of `expected` that `found` holds too, in [0, 1]; both ascending, `expected` not empty.
inline double overlap(const std::vector<int32_t>& found, const std::vector<int32_t>& expected) {
  std::vector<int32_t> common;
  std::set_intersection(found.begin(), found.end(), expected.begin(), expected.end(),
                        std::back_inserter(common));
  return static_cast<double>(common.size()) / static_cast<double>(expected.size());
}

}  // namespace sluice::testing
