// A pass's choices as the GPU finds them in the tables: what its kernels would add up is computed here from
// random ones, and compared with the choices themselves.
#include "engine/backends/pass_choices.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "support/random_tensors.h"

namespace sluice {
namespace {

class PassChoicesTest : public ::testing::Test {
 protected:
  /// Random choices, of which some experts have most.
  void choose(const PassExpertShape& shape, int64_t n_tokens) {
    std::vector<int32_t> experts(static_cast<size_t>(shape.experts));
    std::iota(experts.begin(), experts.end(), 0);
    ids_.clear();
    for (int64_t t = 0; t < n_tokens; ++t) {
      const int64_t busy =
          random_.integer(0, 2) == 0 ? shape.experts : std::min(shape.used + 1, shape.experts);
      std::ranges::sort(experts);
      for (int64_t i = 0; i < shape.used; ++i) {
        std::swap(experts[static_cast<size_t>(i)],
                  experts[static_cast<size_t>(random_.integer(i, busy - 1))]);
      }
      std::sort(experts.begin(), experts.begin() + shape.used);
      ids_.insert(ids_.end(), experts.begin(), experts.begin() + shape.used);
    }
  }

  /// Some experts, ascending, in groups of random sizes; or all in one.
  std::vector<ExpertGroup> random_groups(int64_t experts) {
    std::vector<ExpertGroup> groups(1);
    const bool all = random_.integer(0, 3) == 0;
    for (int32_t e = 0; e < experts; ++e) {
      if (!all && random_.integer(0, 3) == 0) continue;
      if (!all && random_.integer(0, 2) == 0 && !groups.back().empty()) groups.emplace_back();
      groups.back().push_back(e);
    }
    if (groups.back().empty()) groups.pop_back();
    return groups;
  }

  testing::Random random_;
  std::vector<int32_t> ids_;  // [n_tokens, used]
};

/// One expert's output for a token: any number that depends on both.
int64_t output(int32_t expert, int32_t token) {
  return (int64_t{expert} + 1) * 1'000'003 + int64_t{token} * 7919;
}

TEST_F(PassChoicesTest, PiecesAddUpToTheChoices) {
  SCOPED_TRACE(random_.describe());
  for (int run = 0; run < 60; ++run) {
    PassExpertShape shape{.max_tokens = 0, .d_model = 32, .d_expert = 32};
    shape.experts = random_.integer(1, 40);
    shape.used = random_.integer(1, std::min<int64_t>(shape.experts, 8));
    const int64_t n_tokens = random_.integer(1, run % 10 == 0 ? 20'000 : 300);
    shape.max_tokens = n_tokens + random_.integer(0, 50);
    choose(shape, n_tokens);
    const std::vector<ExpertGroup> groups = random_groups(shape.experts);

    // What lies behind the tables must stay.
    constexpr std::byte kUntouched{0xA5};
    constexpr size_t kBehind = 64;
    const int64_t bytes = PassTables(shape, n_tokens, nullptr).bytes;
    EXPECT_LE(bytes, PassTables(shape, shape.max_tokens, nullptr).bytes);
    std::vector<std::byte> memory(static_cast<size_t>(bytes) + kBehind, kUntouched);
    const PassTables tables(shape, n_tokens, memory.data());
    PassChoices choices(shape);
    for (int again = 0; again < 2; ++again) {
      choices.sort({ids_.data(), n_tokens, shape.used}, groups, tables);
    }
    EXPECT_TRUE(std::all_of(memory.end() - kBehind, memory.end(),
                            [=](std::byte byte) { return byte == kUntouched; }));
    EXPECT_LE(reinterpret_cast<std::byte*>(tables.scales[2] + shape.experts), memory.data() + bytes);

    std::vector<int64_t> sums(static_cast<size_t>(n_tokens), 0);
    int64_t next = 0;            // choice
    int64_t experts_before = 0;  // of earlier groups
    int64_t begins_at = 0;
    for (size_t g = 0; g < groups.size(); ++g) {
      EXPECT_EQ(choices.first_expert(g), experts_before);
      experts_before += static_cast<int64_t>(groups[g].size());
      for (const PassChoices::Piece& piece : choices.pieces(g)) {
        ASSERT_GE(piece.choices, 1);
        ASSERT_LE(piece.choices, most_choices(shape));
        ASSERT_EQ(piece.first_choice, next);
        ASSERT_EQ(piece.begins_at, begins_at);
        ASSERT_LE(piece.first_expert + piece.experts, static_cast<int64_t>(groups[g].size()));
        next += piece.choices;
        begins_at += piece.experts + 1;
        // What panel_gemm does.
        const int32_t* const begins = tables.begins + piece.begins_at;
        ASSERT_EQ(begins[0], 0);
        ASSERT_EQ(begins[piece.experts], piece.choices);
        std::vector<int64_t> parts(static_cast<size_t>(piece.choices));
        for (int64_t e = 0; e < piece.experts; ++e) {
          ASSERT_LE(begins[e], begins[e + 1]);
          for (int64_t s = begins[e]; s < begins[e + 1]; ++s) {
            const int32_t token = tables.tokens[piece.first_choice + s];
            ASSERT_TRUE(s == begins[e] || token > tables.tokens[piece.first_choice + s - 1]);
            parts[static_cast<size_t>(s)] =
                output(groups[g][static_cast<size_t>(piece.first_expert + e)], token);
          }
        }
        // What add_slots does.
        for (int64_t i = 0; i < n_tokens * shape.used; ++i) {
          const int64_t part = tables.choices[i] - piece.first_choice;
          if (tables.choices[i] >= 0 && part >= 0 && part < piece.choices) {
            sums[static_cast<size_t>(i / shape.used)] += parts[static_cast<size_t>(part)];
          }
        }
      }
    }
    std::vector<bool> comes(static_cast<size_t>(shape.experts), false);
    for (const ExpertGroup& group : groups) {
      for (const int32_t e : group) comes[static_cast<size_t>(e)] = true;
    }
    for (int64_t t = 0; t < n_tokens; ++t) {
      int64_t expected = 0;
      for (int64_t k = 0; k < shape.used; ++k) {
        const int32_t id = ids_[static_cast<size_t>(t * shape.used + k)];
        expected += comes[static_cast<size_t>(id)] ? output(id, static_cast<int32_t>(t)) : 0;
      }
      ASSERT_EQ(sums[static_cast<size_t>(t)], expected) << "token " << t << " of " << n_tokens;
    }
  }
}

// An expert that every token chose is cut, and the next piece goes on where it was.
TEST_F(PassChoicesTest, ABusyExpertIsCut) {
  const PassExpertShape shape{.max_tokens = 3 * kPassChoices, .experts = 4, .used = 1};
  ids_.assign(static_cast<size_t>(shape.max_tokens), 2);
  ids_.front() = 0;
  const ExpertGroup all{0, 1, 2, 3};
  std::vector<std::byte> memory(static_cast<size_t>(PassTables(shape, shape.max_tokens, nullptr).bytes));
  const PassTables tables(shape, shape.max_tokens, memory.data());
  PassChoices choices(shape);
  choices.sort({ids_.data(), shape.max_tokens, 1}, {&all, 1}, tables);
  const auto pieces = choices.pieces(0);
  ASSERT_EQ(pieces.size(), 3U);
  EXPECT_EQ(pieces[0].first_expert, 0);
  EXPECT_EQ(pieces[0].experts, 3);
  for (const size_t i : {1U, 2U}) {
    EXPECT_EQ(pieces[i].first_expert, 2);
    EXPECT_EQ(pieces[i].experts, 1);
    EXPECT_EQ(pieces[i].choices, kPassChoices);
  }
}

}  // namespace
}  // namespace sluice
