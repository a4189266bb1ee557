// Which form dense attention takes, and that it works in no more than it is given: shapes of the real model.
#include "engine/backends/expanded_attention.h"

#include <gtest/gtest.h>

#include "engine/backends/gpu_working_memory.h"
#include "engine/synth/presets.h"

namespace sluice {
namespace {

constexpr int64_t kMultiprocessors = 132;

class ExpandedAttentionTest : public ::testing::Test {
 protected:
  [[nodiscard]] ExpandedAttentionShape shape(int64_t first_position, int64_t n_tokens,
                                             CacheType cache = CacheType::kBF16) const {
    return {.config = config_,
            .cache = cache,
            .first_position = first_position,
            .n_tokens = n_tokens,
            .multiprocessors = kMultiprocessors};
  }

  [[nodiscard]] int64_t heads(int64_t first_position, int64_t n_tokens,
                              CacheType cache = CacheType::kBF16) const {
    return expanded_attention_heads(shape(first_position, n_tokens, cache), kDecodedBytes);
  }

  ModelConfig config_ = synth::preset_config(synth::Preset::kDeepSeekV32);
};

TEST_F(ExpandedAttentionTest, ManyTokensAreExpandedAndFewAreNot) {
  EXPECT_EQ(heads(0, 0), 0);
  for (const int64_t first_position : {0, 100, 4096, 30000, 160000}) {
    for (const int64_t few : {1, 8, 64, 128}) {
      EXPECT_EQ(heads(first_position, few), 0) << few << " tokens at " << first_position;
    }
  }
  EXPECT_EQ(heads(0, 512), 64);       // two groups of 256 blocks
  EXPECT_EQ(heads(30720, 2048), 15);  // what has room
  // Three heads at a time are 48 blocks, and yet fewer operations; of 512 tokens they are 12 blocks.
  EXPECT_EQ(heads(160000, 2048), 3);
  EXPECT_EQ(heads(160000, 512), 0);
}

/// A tile of n tokens far from the start: 640 n + 262,144 operations a row and head, or 2176 n.
TEST_F(ExpandedAttentionTest, OperationsDecide) {
  ExpandedAttentionShape far = shape(100000, 171);
  far.multiprocessors = 1;  // none is idle
  EXPECT_GT(expanded_attention_heads(far, int64_t{1} << 40), 0);
  far.n_tokens = 170;
  EXPECT_EQ(expanded_attention_heads(far, int64_t{1} << 40), 0);
}

TEST_F(ExpandedAttentionTest, OtherShapesAndFloatCachesAreAbsorbed) {
  EXPECT_GT(heads(0, 1024), 0);
  EXPECT_EQ(heads(0, 1024, CacheType::kF32), 0);
  config_.d_value = 64;
  EXPECT_EQ(heads(0, 1024), 0);
}

TEST_F(ExpandedAttentionTest, FitsIntoItsMemory) {
  int64_t expanded = 0;
  for (const CacheType cache : {CacheType::kBF16, CacheType::kBF16Int8, CacheType::kFp8}) {
    for (const int64_t first_position : {0, 5000, 60000, 161000}) {
      for (const int64_t bytes : {int64_t{1} << 10, int64_t{1} << 24, kDecodedBytes, int64_t{1} << 36}) {
        const ExpandedAttentionShape tile = shape(first_position, 2048, cache);
        const int64_t heads_at_a_time = expanded_attention_heads(tile, bytes);
        DeviceLayout counted;
        const ExpandedAttentionBuffers buffers(tile, heads_at_a_time, counted);
        EXPECT_EQ(buffers.keys, nullptr) << "only counted";
        EXPECT_LE(heads_at_a_time, config_.heads);
        if (heads_at_a_time > 0) {
          EXPECT_LE(counted.taken(), bytes);
          ++expanded;
        }
      }
    }
  }
  EXPECT_GT(expanded, 12);
}

/// FP8 rows are made bf16 in the same memory.
TEST_F(ExpandedAttentionTest, Fp8RowsTakeRoom) {
  const auto taken = [&](CacheType cache) {
    DeviceLayout counted;
    static_cast<void>(ExpandedAttentionBuffers(shape(1000, 24, cache), 2, counted));
    return counted.taken();
  };
  EXPECT_EQ(taken(CacheType::kBF16), 2 * 2 * (512 * 128 + 2 * 1024 * 128));
  EXPECT_EQ(taken(CacheType::kFp8) - taken(CacheType::kBF16), 2 * 1024 * 576);
}

}  // namespace
}  // namespace sluice
