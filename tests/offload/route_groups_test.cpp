// Every route in its expert's group, tokens in order; choices that are computed elsewhere in none.
#include "offload/route_groups.h"

#include <gtest/gtest.h>

#include <array>

#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

TEST(RouteGroups, HoldEveryRouteOnceInOrder) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  RouteGroups groups(300, 20 * 8);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t used = random.integer(1, 8);
    const int64_t experts = random.integer(used, 300);
    const int64_t tokens = random.integer(0, 20);
    std::vector<int32_t> ids;
    int64_t here = 0;
    const float elsewhere = std::array{0.0F, 0.3F, 1.0F}[static_cast<size_t>(random.integer(0, 2))];
    for (int64_t t = 0; t < tokens; ++t) {
      int64_t id = -1;
      for (int64_t i = 0; i < used; ++i) {  // ascending and distinct
        id = random.integer(id + 1, experts - used + i);
        const bool left_out = random.uniform(0, 1) < elsewhere;
        ids.push_back(left_out ? static_cast<int32_t>(random.integer(-1000, -1)) : static_cast<int32_t>(id));
        here += left_out ? 0 : 1;
      }
    }
    const std::vector<float> weights = random.normal(tokens * used);
    groups.group(experts, {{ids.data(), tokens, used}, {weights.data(), tokens, used}});
    int64_t slots = 0;
    int32_t last_expert = -1;
    for (const int32_t expert : groups.active()) {
      EXPECT_GT(expert, last_expert);
      last_expert = expert;
      EXPECT_GT(groups.tokens_of(expert), 0);
      EXPECT_EQ(groups.first_slot(expert), slots);
      int32_t last_token = -1;
      for (int64_t s = 0; s < groups.tokens_of(expert); ++s, ++slots) {
        const RouteGroups::Slot& slot = groups.slot(slots);
        EXPECT_GT(slot.token, last_token);
        last_token = slot.token;
        bool found = false;
        for (int64_t i = 0; i < used; ++i) {
          const auto at = static_cast<size_t>(slot.token * used + i);
          found = found || (ids[at] == expert && weights[at] == slot.weight);
        }
        EXPECT_TRUE(found);
      }
    }
    EXPECT_EQ(slots, here);
    EXPECT_EQ(groups.first_slot(experts), here);
  }
}

}  // namespace
}  // namespace sluice::offload
