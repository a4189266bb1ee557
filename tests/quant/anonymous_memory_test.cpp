// Memory that belongs to one owner at a time, and the file that may be made of it.
#include "quant/anonymous_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "quant/gguf_reader.h"
#include "support/error_text.h"

namespace sluice::quant {
namespace {

TEST(AnonymousMemory, IsZeroedAndMoves) {
  AnonymousMemory memory(100000);
  const std::span<std::byte> bytes = memory.bytes();
  ASSERT_EQ(bytes.size(), 100000U);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % 4096, 0U);
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; }));
  bytes.back() = std::byte{7};
  AnonymousMemory moved(std::move(memory));
  EXPECT_EQ(moved.bytes().data(), bytes.data());
  EXPECT_TRUE(memory.bytes().empty());  // NOLINT(bugprone-use-after-move)
  AnonymousMemory assigned;
  assigned = std::move(moved);
  EXPECT_EQ(assigned.bytes().back(), std::byte{7});
  EXPECT_TRUE(AnonymousMemory(0).bytes().empty());
}

TEST(AnonymousMemory, TooMuchIsAnError) {
  EXPECT_NE(testing::error_text([] { return AnonymousMemory(SIZE_MAX / 4); }).find("memory: expected "),
            std::string::npos);
}

TEST(AnonymousMemory, HoldsAFile) {
  AnonymousMemory memory(64);
  const std::byte* const first = memory.bytes().data();
  std::vector<Tensor> tensors(2);
  tensors[0].name = "there";
  tensors[0].ne = {16, 1, 1, 1};
  tensors[0].bytes = memory.bytes();
  tensors[1].name = "declared";
  tensors[1].ne = {8, 2, 1, 1};
  GgufMetadata metadata("made");
  metadata.set("a", uint32_t{3});
  const GgufFile file =
      GgufFile::in_memory("made", std::move(metadata), std::move(tensors), std::move(memory));
  EXPECT_EQ(file.path(), "made");
  EXPECT_EQ(file.shard_count(), 1);
  EXPECT_EQ(file.version(), 3U);
  EXPECT_EQ(file.metadata().get<uint32_t>("a"), 3U);
  EXPECT_EQ(file.find("there")->bytes.data(), first);
  EXPECT_EQ(file.find("declared")->data_bytes(), 64);
  EXPECT_TRUE(file.find("declared")->bytes.empty());
  EXPECT_EQ(file.find("other"), nullptr);
}

}  // namespace
}  // namespace sluice::quant
