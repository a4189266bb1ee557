// What becomes resident: never more than there are slots, the most used, again after a change, and no coming
// and going of equals.
#include "offload/expert_residency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "support/error_text.h"
#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

constexpr int64_t kUsed = 4;

/// Tokens that choose kUsed different experts of each layer, each with a probability in proportion to the
/// liking.
class Tokens {
 public:
  Tokens(ResidencyShape shape, std::vector<double> liking, testing::Random& random)
      : shape_(shape), liking_(std::move(liking)), random_(random) {}

  std::vector<int32_t> choose(int64_t layer) {
    std::vector<double> left(liking_.begin() + layer * shape_.experts,
                             liking_.begin() + (layer + 1) * shape_.experts);
    std::vector<int32_t> chosen;
    while (static_cast<int64_t>(chosen.size()) < kUsed) {
      const double sum = std::accumulate(left.begin(), left.end(), 0.0);
      double at = double{random_.uniform(0, 1)} * sum;
      size_t expert = 0;
      while (expert + 1 < left.size() && (left[expert] == 0 || at >= left[expert])) at -= left[expert++];
      if (left[expert] == 0) continue;  // rounding led past the last one
      left[expert] = 0;
      chosen.push_back(static_cast<int32_t>(expert));
    }
    return chosen;
  }

  void set_liking(std::vector<double> liking) { liking_ = std::move(liking); }

 private:
  ResidencyShape shape_;
  std::vector<double> liking_;  // [layers * experts]
  testing::Random& random_;
};

class ExpertResidencyTest : public ::testing::Test {
 protected:
  // One token, all of whose replacements arrive at once. How many took another's slot.
  int64_t step(ExpertResidency& residency, Tokens& tokens, int64_t most) const {
    for (int64_t layer = 0; layer < shape_.layers; ++layer) residency.use(layer, tokens.choose(layer));
    int64_t taken = 0;
    for (const ExpertReplacement& replacement : residency.end_token(most)) {
      residency.arrived(replacement.in);
      taken += replacement.out == ExpertReplacement::kFreeSlot ? 0 : 1;
    }
    return taken;
  }

  int64_t run(ExpertResidency& residency, Tokens& tokens, int64_t count, int64_t most) const {
    int64_t taken = 0;
    for (int64_t i = 0; i < count; ++i) taken += step(residency, tokens, most);
    return taken;
  }

  std::set<int64_t> residents(const ExpertResidency& residency) const {
    std::set<int64_t> all;
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      for (int64_t expert = 0; expert < shape_.experts; ++expert) {
        if (residency.resident(layer, expert)) all.insert(layer * shape_.experts + expert);
      }
    }
    return all;
  }

  std::vector<double> equal() const {
    return std::vector<double>(static_cast<size_t>(shape_.layers * shape_.experts), 1.0);
  }
  // Every fourth expert, from `first` on, is chosen twenty times as often as the others.
  std::vector<double> liking(int64_t first) const {
    std::vector<double> values = equal();
    for (const int64_t expert : liked(first)) values[static_cast<size_t>(expert)] = 20;
    return values;
  }
  std::set<int64_t> liked(int64_t first) const {
    std::set<int64_t> all;
    for (int64_t e = first; e < shape_.layers * shape_.experts; e += 4) all.insert(e);
    return all;
  }

  testing::Random random_;
  ResidencyShape shape_{.layers = 3, .experts = 16, .slots = 12};
  ResidencyRules rules_{.half_life = 256, .copy_hits = 10, .deviations = 3};
};

TEST_F(ExpertResidencyTest, NeverHoldsMoreThanItsSlotsWhateverArrivesWhen) {
  SCOPED_TRACE(random_.describe());
  for (int round = 0; round < 20; ++round) {
    shape_.slots = random_.integer(0, shape_.layers * shape_.experts);
    ExpertResidency residency(shape_, {.half_life = 8, .copy_hits = 0, .deviations = 0});
    Tokens tokens(shape_, liking(random_.integer(0, 3)), random_);
    std::set<int32_t> coming;
    for (int i = 0; i < 300; ++i) {
      for (int64_t together = random_.integer(1, 3); together > 0; --together) {
        for (int64_t layer = 0; layer < shape_.layers; ++layer) residency.use(layer, tokens.choose(layer));
      }
      const std::set<int64_t> before = residents(residency);
      const int64_t most = random_.integer(0, 5);
      const auto begun = residency.end_token(most);
      EXPECT_LE(begun.size(), static_cast<size_t>(most));
      for (const ExpertReplacement& replacement : begun) {
        EXPECT_FALSE(before.contains(replacement.in));
        EXPECT_TRUE(coming.insert(replacement.in).second) << "on its way already";
        EXPECT_TRUE(replacement.out == ExpertReplacement::kFreeSlot || before.contains(replacement.out));
      }
      const std::set<int64_t> now = residents(residency);
      ASSERT_EQ(static_cast<int64_t>(now.size()), residency.residents());
      ASSERT_EQ(residency.residents() + static_cast<int64_t>(coming.size()) + residency.free_slots(),
                shape_.slots);
      for (const ExpertReplacement& replacement : begun) {
        ASSERT_FALSE(now.contains(replacement.out)) << "its slot may be written to";
        ASSERT_FALSE(now.contains(replacement.in)) << "it is not there yet";
      }
      while (!coming.empty() && random_.integer(0, 2) > 0) {
        residency.arrived(*coming.begin());
        coming.erase(coming.begin());
      }
    }
  }
}

TEST_F(ExpertResidencyTest, DecayedCountsAreTheFormulas) {
  SCOPED_TRACE(random_.describe());
  rules_.half_life = 3;  // rescaled every 768 tokens
  ExpertResidency residency(shape_, rules_);
  Tokens tokens(shape_, liking(0), random_);
  std::vector<double> expected(static_cast<size_t>(shape_.layers * shape_.experts));
  for (int i = 0; i < 2000; ++i) {
    for (double& count : expected) count *= std::exp2(-1 / rules_.half_life);
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      const std::vector<int32_t> chosen = tokens.choose(layer);
      residency.use(layer, chosen);
      for (const int32_t e : chosen) expected[static_cast<size_t>(layer * shape_.experts + e)] += 1;
    }
    residency.end_token(0);
  }
  for (size_t e = 0; e < expected.size(); ++e) {
    const auto at = static_cast<int64_t>(e);
    // 2000 roundings of the weight and of the sum
    EXPECT_NEAR(residency.decayed_count(at / shape_.experts, at % shape_.experts), expected[e], 1e-11) << e;
  }
}

TEST_F(ExpertResidencyTest, SaysTheSameOfTheSameTokens) {
  const auto history = [&] {
    testing::Random random(7);
    ExpertResidency residency(shape_, {.half_life = 16, .copy_hits = 0, .deviations = 0});
    Tokens tokens(shape_, equal(), random);
    std::vector<ExpertReplacement> all;
    for (int i = 0; i < 4500; ++i) {  // past a rescaling
      for (int64_t layer = 0; layer < shape_.layers; ++layer) residency.use(layer, tokens.choose(layer));
      for (const ExpertReplacement& replacement : residency.end_token(2)) {
        all.push_back(replacement);
        residency.arrived(replacement.in);
      }
    }
    return all;
  };
  const std::vector<ExpertReplacement> first = history();
  EXPECT_GT(first.size(), 100U);
  EXPECT_EQ(first, history());
}

TEST_F(ExpertResidencyTest, ConvergesToTheMostUsedAndFollowsAShift) {
  SCOPED_TRACE(random_.describe());
  ExpertResidency residency(shape_, rules_);
  Tokens tokens(shape_, liking(0), random_);
  run(residency, tokens, 3000, 1);
  EXPECT_EQ(residents(residency), liked(0));
  EXPECT_EQ(run(residency, tokens, 3000, 1), 0) << "what is right stays";
  tokens.set_liking(liking(2));
  EXPECT_GE(run(residency, tokens, 3000, 1), shape_.slots);
  EXPECT_EQ(residents(residency), liked(2));
}

TEST_F(ExpertResidencyTest, LeavesEqualsWhereTheyAre) {
  SCOPED_TRACE(random_.describe());
  const auto replacements = [&](const ResidencyRules& rules) {
    ExpertResidency residency(shape_, rules);
    Tokens tokens(shape_, equal(), random_);
    run(residency, tokens, 2000, 1);
    return run(residency, tokens, 5000, 1);
  };
  EXPECT_LE(replacements(rules_), 25) << "of 5000 tokens; each that leaves stays away for hundreds";
  EXPECT_GT(replacements({.half_life = 256, .copy_hits = 0, .deviations = 0}), 500)
      << "the rules are at work";
}

TEST_F(ExpertResidencyTest, FillsFreeSlotsWithTheMostUsedFirst) {
  shape_.slots = 2;
  ExpertResidency residency(shape_, rules_);
  residency.use(0, std::vector<int32_t>{5, -1, 3});
  residency.end_token(0);
  residency.use(0, std::vector<int32_t>{1, 3});
  residency.use(2, std::vector<int32_t>{-1, 0});
  const auto begun = residency.end_token(5);
  const std::vector<ExpertReplacement> expected{{.in = 3}, {.in = 1}};  // of equals the lower number
  EXPECT_EQ(std::vector(begun.begin(), begun.end()), expected);
  EXPECT_EQ(residency.free_slots(), 0);
  EXPECT_FALSE(residency.resident(0, 3));
  residency.arrived(3);
  EXPECT_TRUE(residency.resident(0, 3));
}

TEST_F(ExpertResidencyTest, ReplacesWhenTheFormulaSays) {
  ExpertResidency residency({.layers = 1, .experts = 2, .slots = 1},
                            {.half_life = 1e9, .copy_hits = 10, .deviations = 3});
  residency.use(0, std::vector<int32_t>{0});
  residency.arrived(residency.end_token(1)[0].in);
  int64_t uses = 0;
  bool replaced = false;
  while (!replaced && uses < 100) {
    residency.use(0, std::vector<int32_t>{1});
    ++uses;
    replaced = !residency.end_token(1).empty();
  }
  // c - 1 >= 10 + 3 sqrt((c + 1) / 2): c = 21 has 20 against 19.95, c = 20 has 19 against 19.72
  EXPECT_EQ(uses, 21);
}

TEST(ExpertResidencyErrorTest, NamesWhatIsWrong) {
  const auto text = [](const ResidencyShape& shape, const ResidencyRules& rules) {
    return testing::error_text([&] { ExpertResidency(shape, rules); });
  };
  EXPECT_EQ(text({.layers = 2, .experts = 4, .slots = 9}, {}),
            "expert residency: expected 0 to 8 slots, found 9");
  EXPECT_NE(text({.layers = 0, .experts = 4, .slots = 0}, {}).find("found 0 layers of 4"), std::string::npos);
  EXPECT_NE(text({.layers = 2, .experts = 4, .slots = 1}, {.half_life = 0.5}).find("found 0.5"),
            std::string::npos);
  EXPECT_NE(text({.layers = 2, .experts = 4, .slots = 1}, {.copy_hits = -1}).find("found -1"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice::offload
