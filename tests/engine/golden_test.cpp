// The whole model against results of an independent implementation (Hugging Face transformers, float32).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>

#include "engine/engine.h"
#include "engine/perplexity.h"
#include "support/golden_forward.h"
#include "support/golden_model.h"

namespace sluice {
namespace {

using testing::golden_model;

class Golden : public ::testing::TestWithParam<const char*> {};

TEST_P(Golden, LogitsHiddenStatesRoutesAndSelections) {
  SLUICE_NEEDS_TINY_MODEL();
  Runtime runtime(golden_model(), {});
  testing::expect_golden(runtime, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Prompts, Golden, ::testing::ValuesIn(testing::kGoldenPrompts),
                         [](const auto& tested) { return std::string(tested.param); });

class GoldenCache : public ::testing::TestWithParam<CacheType> {};

// What a cache of fewer bits costs, all else being float32; the figures are in docs/benchmarks.md.
TEST_P(GoldenCache, ARoundedCacheStaysNear) {
  SLUICE_NEEDS_TINY_MODEL();
  Runtime runtime(golden_model(), {});
  for (const char* const prompt : {"t700", "t1500"}) {
    const testing::GoldenDistance found = testing::golden_distance(runtime, prompt, GetParam());
    EXPECT_GT(found.logit_error, 1e-5) << "nothing was rounded";
    EXPECT_LT(found.logit_error, has_fp8_latents(GetParam()) ? 0.2 : 0.05);
    EXPECT_GT(found.selections, 0);
    EXPECT_GT(found.overlap, has_fp8_latents(GetParam()) ? 0.95 : 0.98);
    EXPECT_GE(found.same_first + 1, found.positions);
    fmt::print(
        "{:9} {:5} logits {:.1e} relative, worst {:.1e}; likeliest token {} of {}; selection overlap "
        "{:.4f}\n",
        cache_type_name(GetParam()), prompt, found.logit_error, found.largest_error, found.same_first,
        found.positions, found.overlap);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GoldenCache,
                         ::testing::Values(CacheType::kBF16, CacheType::kBF16Int8, CacheType::kFp8,
                                           CacheType::kFp8Int8),
                         [](const auto& tested) {
                           std::string name(cache_type_name(tested.param));
                           std::erase(name, '+');
                           return name;
                         });

TEST(GoldenGreedy, ContinuationsAreIdentical) {
  SLUICE_NEEDS_TINY_MODEL();
  Runtime runtime(golden_model(), {});
  testing::expect_golden_continuations(runtime);
}

struct ScoredWindow {
  int64_t context;
  AttentionMode attention;
  int64_t index;  // of the held-out text's windows
};

constexpr ScoredWindow kScoredWindows[] = {{2048, AttentionMode::kSparse, 0},
                                           {2048, AttentionMode::kSparse, 1},
                                           {2048, AttentionMode::kDense, 0},
                                           {4096, AttentionMode::kSparse, 0},
                                           {4096, AttentionMode::kDense, 0}};
#ifdef __SANITIZE_THREAD__
constexpr size_t kWindowsRun = 1;  // the others take the same threads through the same code
#else
constexpr size_t kWindowsRun = std::size(kScoredWindows);
#endif

std::string window_name(const ScoredWindow& window) {
  return fmt::format("{}_{}_window{}", window.context, attention_mode_name(window.attention), window.index);
}

std::ostream& operator<<(std::ostream& stream, const ScoredWindow& window) {
  return stream << window_name(window);
}

class GoldenPerplexity : public ::testing::TestWithParam<ScoredWindow> {};

TEST_P(GoldenPerplexity, MeanLogLikelihoodOfAWindow) {
  SLUICE_NEEDS_TINY_MODEL();
  const auto [context, attention, index] = GetParam();
  const std::filesystem::path folder = testing::tiny_directory() / "golden";
  std::ifstream text_file(folder / "heldout.txt");
  const std::string text(std::istreambuf_iterator<char>(text_file), {});
  std::ifstream golden_file(folder / "ppl.json");
  const nlohmann::json golden = nlohmann::json::parse(golden_file)
                                    .at("results")
                                    .at(fmt::format("ctx{}_{}", context, attention_mode_name(attention)));

  const Tokenizer& tokenizer = golden_model().tokenizer();
  const PerplexityWindows windows(tokenizer.encode(text, SpecialTokens::kAsText),
                                  tokenizer.data().bos.value(), context, ScoreProtocol::kAll, "heldout.txt");
  EXPECT_EQ(windows.count(), golden.at("windows").get<int64_t>());
  Runtime runtime(golden_model(), {.attention = attention});
  CpuCache cache(golden_model().config(), context, CacheType::kF32);
  const std::optional<NllSum> found = score_window(runtime, cache, windows.window(index), {});
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->count(), context - 1);
  const auto expected = golden.at("first_windows_mean_nll").at(static_cast<size_t>(index)).get<double>();
  EXPECT_NEAR(found->mean(), expected, 1e-3);  // 0.1 % of the perplexity
  RecordProperty("nll_difference", fmt::format("{:.1e}", found->mean() - expected));
  fmt::print("{}: mean NLL {:.6f}, reference {:.6f}\n", window_name(GetParam()), found->mean(), expected);
}

INSTANTIATE_TEST_SUITE_P(HeldOut, GoldenPerplexity,
                         ::testing::ValuesIn(kScoredWindows, kScoredWindows + kWindowsRun),
                         [](const auto& tested) { return window_name(tested.param); });

}  // namespace
}  // namespace sluice
