// Byte-pair encoding against the definition: look for the best merge, apply it at the leftmost place, begin
// again.
#include "engine/text/byte_pair.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <string>

#include "support/random_tensors.h"

namespace sluice {
namespace {

struct Merge {
  int32_t rank;
  int32_t merged;
};
using Merges = std::map<std::pair<int32_t, int32_t>, Merge>;

std::vector<int32_t> by_definition(const std::string& piece, const Merges& merges) {
  std::vector<int32_t> ids(piece.begin(), piece.end());
  while (true) {
    int32_t best_rank = std::numeric_limits<int32_t>::max();
    size_t best = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto merge = merges.find({ids[i], ids[i + 1]});
      if (merge != merges.end() && merge->second.rank < best_rank) {
        best_rank = merge->second.rank;
        best = i;
      }
    }
    if (best_rank == std::numeric_limits<int32_t>::max()) return ids;
    ids[best] = merges.at({ids[best], ids[best + 1]}).merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

std::vector<int32_t> encode(const BytePairEncoder& encoder, const std::string& piece) {
  BytePairEncoder::Workspace workspace;
  std::vector<int32_t> ids;
  encoder.encode(piece, workspace, ids);
  return ids;
}

TEST(BytePair, AgreesWithTheDefinition) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int round = 0; round < 200; ++round) {
    // Few letters and many merges, so that merges overlap and compete.
    const int64_t letters = random.integer(1, 4);
    std::vector<std::string> texts(256);
    for (size_t i = 0; i < 256; ++i) texts[i] = std::string(1, static_cast<char>(i));
    std::vector<int32_t> usable;
    for (int64_t i = 0; i < letters; ++i) usable.push_back(static_cast<int32_t>('a' + i));
    Merges merges;
    std::map<std::string, int32_t> known;
    for (int i = 0; i < 40; ++i) {
      const auto pick = [&] {
        return usable[static_cast<size_t>(random.integer(0, static_cast<int64_t>(usable.size()) - 1))];
      };
      const int32_t left = pick();
      const int32_t right = pick();
      const std::string text = texts[static_cast<size_t>(left)] + texts[static_cast<size_t>(right)];
      const auto [entry, is_new] = known.emplace(text, static_cast<int32_t>(texts.size()));
      if (merges.contains({left, right})) continue;
      if (is_new) {
        texts.push_back(text);
        usable.push_back(entry->second);
      }
      merges[{left, right}] = {i, entry->second};
    }
    BytePairEncoder encoder(static_cast<int64_t>(merges.size()));
    for (int32_t byte = 0; byte < 256; ++byte) encoder.set_byte(static_cast<uint8_t>(byte), byte);
    for (const auto& [pair, merge] : merges) {
      ASSERT_TRUE(encoder.add_merge(pair.first, pair.second, merge.rank, merge.merged));
    }
    for (int word = 0; word < 20; ++word) {
      std::string piece;
      const int64_t length = random.integer(0, 60);
      for (int64_t i = 0; i < length; ++i) piece += static_cast<char>('a' + random.integer(0, letters - 1));
      EXPECT_EQ(encode(encoder, piece), by_definition(piece, merges)) << piece;
    }
  }
}

TEST(BytePair, EqualMergesGoLeftToRight) {
  BytePairEncoder encoder(1);
  for (int32_t byte = 0; byte < 256; ++byte) encoder.set_byte(static_cast<uint8_t>(byte), byte);
  ASSERT_TRUE(encoder.add_merge('a', 'a', 0, 300));
  EXPECT_EQ(encode(encoder, "aaa"), (std::vector<int32_t>{300, 'a'}));
  EXPECT_EQ(encode(encoder, "aaaa"), (std::vector<int32_t>{300, 300}));
}

TEST(BytePair, APairHasOneMerge) {
  BytePairEncoder encoder(2);
  EXPECT_TRUE(encoder.add_merge(1, 2, 0, 300));
  EXPECT_FALSE(encoder.add_merge(1, 2, 1, 301));
}

}  // namespace
}  // namespace sluice
