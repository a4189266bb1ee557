#include "support/golden_forward.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "support/golden_model.h"
#include "support/overlap.h"

namespace sluice::testing {
namespace {

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
std::vector<float> logits_of(Runtime& runtime, std::span<const int32_t> ids, size_t rows,
                             ForwardObserver* observer, CacheType cache_type = CacheType::kF32) {
  const auto cache = runtime.make_cache(static_cast<int64_t>(ids.size()), cache_type);
  std::vector<float> all;
  const auto batch = static_cast<size_t>(runtime.options().max_batch);
  for (size_t done = 0; done < ids.size(); done += batch) {
    const auto part = ids.subspan(done, std::min(batch, ids.size() - done));
    const auto result = runtime.forward({.ids = part,
                                         .first_position = static_cast<int64_t>(done),
                                         .logits = Logits::kAll,
                                         .observer = observer,
                                         .stop = {}},
                                        *cache);
    for (int64_t r = 0; r < result.logits.rows; ++r) {
      all.insert(all.end(), result.logits.row(r).begin(), result.logits.row(r).end());
    }
  }
  const auto vocab = static_cast<size_t>(runtime.model().config().vocab_size);
  return {all.end() - static_cast<std::ptrdiff_t>(rows * vocab), all.end()};
}

struct Worst {
  double hidden = 0;
  double overlap = 1;
};

Worst expect_layers(const Goldens& goldens, const std::string& prompt, const LastPosition& seen) {
  Worst worst;
  for (const auto& [name, values] : seen.floats) {
    if (!goldens.has(prompt + "." + name)) {
      continue;
    }
    const double error = relative_rms(values, goldens.floats(prompt + "." + name));
    worst.hidden = std::max(worst.hidden, error);
    EXPECT_LT(error, 1e-3) << name;
  }
  for (const auto& [name, values] : seen.ids) {
    if (!goldens.has(prompt + "." + name)) {
      continue;
    }
    if (name.starts_with("expert")) {
      EXPECT_EQ(values, goldens.ids(prompt + "." + name)) << name;
    } else {
      worst.overlap = std::min(worst.overlap, overlap(values, goldens.ids(prompt + "." + name)));
      EXPECT_GT(worst.overlap, 0.995) << name;
    }
  }
  return worst;
}

}  // namespace

void expect_golden(Runtime& runtime, const std::string& prompt) {
  const Goldens goldens;
  const std::vector<int32_t> ids = goldens.ids(prompt + ".ids");
  LastPosition seen(static_cast<int64_t>(ids.size()) - 1);
  const std::vector<float> logits = logits_of(runtime, ids, 4, &seen);
  const std::vector<float> golden = goldens.floats(prompt + ".logits");
  ASSERT_EQ(logits.size(), golden.size());
  const double difference = largest_difference(logits, golden);
  EXPECT_LT(difference, 1e-3);
  EXPECT_GT(cosine(logits, golden), 0.9999);

  const Worst worst = expect_layers(goldens, prompt, seen);
  ::testing::Test::RecordProperty("max_logit_difference", fmt::format("{:.2e}", difference));
  fmt::print(
      "{:9} {:4} tokens: logits within {:.1e}, cosine {:.8f}, worst layer value {:.1e} relative, "
      "smallest selection overlap {:.4f}\n",
      prompt, ids.size(), difference, cosine(logits, golden), worst.hidden, worst.overlap);
}

GoldenDistance golden_distance(Runtime& runtime, const std::string& prompt, CacheType cache_type) {
  const Goldens goldens;
  const std::vector<int32_t> ids = goldens.ids(prompt + ".ids");
  const std::vector<float> golden = goldens.floats(prompt + ".logits");
  const auto vocab = static_cast<size_t>(runtime.model().config().vocab_size);
  LastPosition seen(static_cast<int64_t>(ids.size()) - 1);
  const std::vector<float> logits = logits_of(runtime, ids, golden.size() / vocab, &seen, cache_type);
  GoldenDistance distance{.positions = static_cast<int64_t>(golden.size() / vocab),
                          .logit_error = relative_rms(logits, golden),
                          .largest_error = largest_difference(logits, golden)};
  for (size_t begin = 0; begin < golden.size(); begin += vocab) {
    const auto likeliest = [&](const std::vector<float>& all) {
      const auto row = std::span(all).subspan(begin, vocab);
      return std::ranges::max_element(row) - row.begin();
    };
    distance.same_first += likeliest(logits) == likeliest(golden) ? 1 : 0;
  }
  for (const auto& [name, values] : seen.ids) {
    if (name.starts_with("topk") && goldens.has(prompt + "." + name) && !values.empty()) {
      distance.overlap += overlap(values, goldens.ids(prompt + "." + name));
      ++distance.selections;
    }
  }
  distance.overlap =
      distance.selections == 0 ? 1 : distance.overlap / static_cast<double>(distance.selections);
  return distance;
}

void expect_golden_continuations(Runtime& runtime) {
  std::ifstream stream(tiny_directory() / "golden/greedy.json");
  const nlohmann::json greedy = nlohmann::json::parse(stream);
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

}  // namespace sluice::testing
