// The whole model against results of an independent implementation (Hugging Face transformers, float32).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/perplexity.h"
#include "support/golden_model.h"
#include "support/overlap.h"

namespace sluice {
namespace {

using testing::golden_model;
using testing::Goldens;
using testing::overlap;

constexpr const char* kPrompts[] = {"short", "dialogue", "t300", "t700", "t1500", "chat"};

// What the last position of a prompt saw in every layer.
class LastPosition : public ForwardObserver {
 public:
  explicit LastPosition(int64_t position) : position_(position) {}

  void embedding(int64_t first, MatrixView<const float> x) override { keep("embed", first, x); }
  void attention_output(int64_t layer, int64_t first, MatrixView<const float> x) override {
    keep(fmt::format("attn{}", layer), first, x);
  }
  void layer_output(int64_t layer, int64_t first, MatrixView<const float> x) override {
    keep(fmt::format("layer{}", layer), first, x);
  }
  void final_norm(int64_t first, MatrixView<const float> x) override { keep("norm", first, x); }
  void selection(int64_t layer, int64_t position, std::span<const int32_t> selected,
                 std::span<const float> scores) override {
    if (position == position_) {
      ids[fmt::format("topk{}", layer)] = {selected.begin(), selected.end()};
      floats[fmt::format("iscore{}", layer)] = {scores.begin(), scores.end()};
    }
  }
  void routes(int64_t layer, int64_t first, const offload::Routes& routes) override {
    if (position_ < first + routes.ids.rows) {
      const auto chosen = routes.ids.row(position_ - first);
      const auto weights = routes.weights.row(position_ - first);
      ids[fmt::format("expert{}", layer)] = {chosen.begin(), chosen.end()};
      floats[fmt::format("weight{}", layer)] = {weights.begin(), weights.end()};
    }
  }

  std::map<std::string, std::vector<float>> floats;
  std::map<std::string, std::vector<int32_t>> ids;

 private:
  void keep(const std::string& name, int64_t first, MatrixView<const float> x) {
    if (position_ < first + x.rows) {
      const auto row = x.row(position_ - first);
      floats[name] = {row.begin(), row.end()};
    }
  }

  int64_t position_;
};

double largest_difference(std::span<const float> a, std::span<const float> b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return largest;
}

double cosine(std::span<const float> a, std::span<const float> b) {
  double ab = 0;
  double aa = 0;
  double bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return ab / std::sqrt(aa * bb);
}

double relative_rms(std::span<const float> a, std::span<const float> golden) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(golden[i]);
    error += d * d;
    norm += static_cast<double>(golden[i]) * static_cast<double>(golden[i]);
  }
  return std::sqrt(error / norm);
}

// Feeds ids in batches and collects the logits of the last `rows` positions.
std::vector<float> logits_of(Runtime& runtime, KvCache& cache, std::span<const int32_t> ids, size_t rows,
                             ForwardObserver* observer) {
  std::vector<float> all;
  const auto batch = static_cast<size_t>(runtime.options().max_batch);
  for (size_t done = 0; done < ids.size(); done += batch) {
    const auto part = ids.subspan(done, std::min(batch, ids.size() - done));
    const auto result = runtime.forward({.ids = part,
                                         .first_position = static_cast<int64_t>(done),
                                         .logits = Logits::kAll,
                                         .observer = observer,
                                         .stop = {}},
                                        cache);
    for (int64_t r = 0; r < result.logits.rows; ++r) {
      all.insert(all.end(), result.logits.row(r).begin(), result.logits.row(r).end());
    }
  }
  const auto vocab = static_cast<size_t>(runtime.model().config().vocab_size);
  return {all.end() - static_cast<std::ptrdiff_t>(rows * vocab), all.end()};
}

class Golden : public ::testing::TestWithParam<const char*> {};

TEST_P(Golden, LogitsHiddenStatesRoutesAndSelections) {
  SLUICE_NEEDS_TINY_MODEL();
  const Goldens goldens;
  const std::string prompt = GetParam();
  const std::vector<int32_t> ids = goldens.ids(prompt + ".ids");
  Runtime runtime(golden_model(), {});
  KvCache cache(golden_model().config(), static_cast<int64_t>(ids.size()), CacheType::kF32);
  LastPosition seen(static_cast<int64_t>(ids.size()) - 1);
  const std::vector<float> logits = logits_of(runtime, cache, ids, 4, &seen);
  const std::vector<float> golden = goldens.floats(prompt + ".logits");
  ASSERT_EQ(logits.size(), golden.size());
  const double difference = largest_difference(logits, golden);
  EXPECT_LT(difference, 1e-3);
  EXPECT_GT(cosine(logits, golden), 0.9999);

  double worst_hidden = 0;
  double worst_overlap = 1;
  for (const auto& [name, values] : seen.floats) {
    if (!goldens.has(prompt + "." + name)) {
      continue;
    }
    const double error = relative_rms(values, goldens.floats(prompt + "." + name));
    worst_hidden = std::max(worst_hidden, error);
    EXPECT_LT(error, 1e-3) << name;
  }
  for (const auto& [name, values] : seen.ids) {
    if (!goldens.has(prompt + "." + name)) {
      continue;
    }
    if (name.starts_with("expert")) {
      EXPECT_EQ(values, goldens.ids(prompt + "." + name)) << name;
    } else {
      worst_overlap = std::min(worst_overlap, overlap(values, goldens.ids(prompt + "." + name)));
      EXPECT_GT(worst_overlap, 0.995) << name;
    }
  }
  RecordProperty("max_logit_difference", fmt::format("{:.2e}", difference));
  fmt::print(
      "{:9} {:4} tokens: logits within {:.1e}, cosine {:.8f}, worst layer value {:.1e} relative, "
      "smallest selection overlap {:.4f}\n",
      prompt, ids.size(), difference, cosine(logits, golden), worst_hidden, worst_overlap);
}

INSTANTIATE_TEST_SUITE_P(Prompts, Golden, ::testing::ValuesIn(kPrompts),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(GoldenGreedy, ContinuationsAreIdentical) {
  SLUICE_NEEDS_TINY_MODEL();
  std::ifstream stream(testing::tiny_directory() / "golden/greedy.json");
  const nlohmann::json greedy = nlohmann::json::parse(stream);
  Runtime runtime(golden_model(), {});
  for (const auto& item : greedy["cases"]) {
    const auto prompt = item["prompt_ids"].get<std::vector<int32_t>>();
    const auto expected = item["greedy_ids"].get<std::vector<int32_t>>();
    Session session(runtime, 2048, CacheType::kF32);
    session.prefill(prompt);
    Sampler sampler({.temperature = 0.0F});
    GenerateOptions options;
    options.max_tokens = static_cast<int64_t>(expected.size());
    options.ignore_eos = true;
    EXPECT_EQ(session.generate(sampler, options).ids, expected) << item["name"];
  }
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
  KvCache cache(golden_model().config(), context, CacheType::kF32);
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
