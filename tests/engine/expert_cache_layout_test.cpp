// The memory of an expert cache: what fits in a number of bytes.
#include "engine/backends/expert_cache_layout.h"

#include <gtest/gtest.h>

#include "support/random_tensors.h"

namespace sluice {
namespace {

TEST(ExpertCacheLayout, AsManySlotsAsHaveRoom) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int run = 0; run < 200; ++run) {
    const ExpertCacheShape wish{.layers = random.integer(1, 60),
                                .experts = random.integer(1, 256),
                                .used = random.integer(1, 8),
                                .slot_bytes = 256 * random.integer(1, 100'000)};
    const int64_t bytes = random.integer(0, 20'000'000'000);
    ExpertCacheShape shape = expert_cache_within(wish, bytes);
    ASSERT_LE(shape.slots, shape.layers * shape.experts);
    if (shape.slots > 0) {
      EXPECT_LE(expert_cache_bytes(shape), bytes);
    }
    if (shape.slots < shape.layers * shape.experts) {
      ++shape.slots;
      EXPECT_GT(expert_cache_bytes(shape), bytes) << "one more";
    }
  }
}

TEST(ExpertCacheLayout, NoExpertsNoSlots) {
  EXPECT_EQ(expert_cache_within({.layers = 0, .experts = 0, .used = 8, .slot_bytes = 0}, 1 << 30).slots, 0);
  EXPECT_EQ(expert_cache_within({.layers = 1, .experts = 4, .used = 8, .slot_bytes = 4096}, 4096).slots, 0);
}

TEST(ExpertCacheLayout, PiecesDoNotOverlap) {
  const ExpertCacheShape shape{.layers = 3, .experts = 7, .used = 2, .slot_bytes = 512, .slots = 5};
  alignas(256) std::byte memory[16384];
  ASSERT_LE(expert_cache_bytes(shape), static_cast<int64_t>(sizeof(memory)));
  DeviceLayout layout(memory, sizeof(memory));
  const ExpertCacheBuffers buffers(shape, layout);
  const std::byte* const begins[] = {buffers.slots,
                                     reinterpret_cast<const std::byte*>(buffers.scales[0]),
                                     reinterpret_cast<const std::byte*>(buffers.scales[1]),
                                     reinterpret_cast<const std::byte*>(buffers.scales[2]),
                                     reinterpret_cast<const std::byte*>(buffers.slot_of),
                                     reinterpret_cast<const std::byte*>(buffers.slots_used),
                                     reinterpret_cast<const std::byte*>(buffers.parts),
                                     memory + expert_cache_bytes(shape)};
  const int64_t sizes[] = {5 * 512, 5 * 4, 5 * 4, 5 * 4, 3 * 7 * 4, 16 * 2 * 4, 16 * 2 * 4};
  EXPECT_EQ(begins[0], memory);
  for (size_t i = 0; i < std::size(sizes); ++i) EXPECT_GE(begins[i + 1] - begins[i], sizes[i]) << i;
}

}  // namespace
}  // namespace sluice
