#include "offload/route_groups.h"

#include <algorithm>
#include <cassert>

namespace sluice::offload {

RouteGroups::RouteGroups(int64_t max_experts, int64_t max_slots)
    : first_slot_(static_cast<size_t>(max_experts + 1)), slots_(static_cast<size_t>(max_slots)) {
  active_.reserve(static_cast<size_t>(max_experts));
}

void RouteGroups::group(int64_t experts, const Routes& routes) {
  assert(routes.ids.rows * routes.ids.cols <= static_cast<int64_t>(slots_.size()));
  std::fill(first_slot_.begin(), first_slot_.end(), 0);
  for (int64_t t = 0; t < routes.ids.rows; ++t) {
    for (const int32_t e : routes.ids.row(t)) {
      assert(e < experts);
      if (e >= 0) {
        ++first_slot_[static_cast<size_t>(e) + 1];
      }
    }
  }
  active_.clear();
  for (int64_t e = 0; e < experts; ++e) {
    if (first_slot_[static_cast<size_t>(e) + 1] > 0) {
      active_.push_back(static_cast<int32_t>(e));
    }
    first_slot_[static_cast<size_t>(e) + 1] += first_slot_[static_cast<size_t>(e)];
  }
  // Filling moves each expert's start to its end; shifting back afterwards restores the starts.
  for (int64_t t = 0; t < routes.ids.rows; ++t) {
    for (int64_t i = 0; i < routes.ids.cols; ++i) {
      const int32_t e = routes.ids.row(t)[static_cast<size_t>(i)];
      if (e >= 0) {
        const auto slot = static_cast<size_t>(first_slot_[static_cast<size_t>(e)]++);
        slots_[slot] = {static_cast<int32_t>(t), routes.weights.row(t)[static_cast<size_t>(i)]};
      }
    }
  }
  for (auto e = static_cast<size_t>(experts); e > 0; --e) {
    first_slot_[e] = first_slot_[e - 1];
  }
  first_slot_[0] = 0;
}

}  // namespace sluice::offload
