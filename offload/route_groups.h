// A batch's routes, grouped by expert: an expert's weights are read once for all of its tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "offload/routes.h"

namespace sluice::offload {

class RouteGroups {
 public:
  /// One token of one expert. Slots of an expert follow each other, in the order of tokens.
  struct Slot {
    int32_t token = 0;
    float weight = 0;
  };

  /// For up to `max_slots` routes over ids below `max_experts`.
  RouteGroups(int64_t max_experts, int64_t max_slots);

  /// Groups anew. Ids are in [0, experts <= max_experts), or below 0: such choices are in no group. Allocates
  /// nothing.
  void group(int64_t experts, const Routes& routes);

  /// Experts with at least one token, ascending.
  [[nodiscard]] std::span<const int32_t> active() const { return active_; }
  [[nodiscard]] int64_t first_slot(int64_t expert) const { return first_slot_[static_cast<size_t>(expert)]; }
  [[nodiscard]] int64_t tokens_of(int64_t expert) const {
    return first_slot(expert + 1) - first_slot(expert);
  }
  [[nodiscard]] const Slot& slot(int64_t s) const { return slots_[static_cast<size_t>(s)]; }

 private:
  std::vector<int64_t> first_slot_;  // [experts + 1]
  std::vector<int32_t> active_;
  std::vector<Slot> slots_;
};

}  // namespace sluice::offload
