// The last layer of passes whose last logits alone are wanted: those are the same bits as among all logits,
// and so is all that comes after them.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <stop_token>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/synth/open_model.h"
#include "support/compare.h"
#include "support/random_tensors.h"

namespace sluice {
namespace {

constexpr int64_t kContext = 96;
constexpr int64_t kTokens = 70;  // past the index top-k of 32

class LastToken : public ::testing::Test {
 protected:
  Model random_model(int64_t dense, int64_t moe) {
    Model model =
        synth::open_model(synth::parse_model_spec(fmt::format("synth:tiny,dense={},moe={},type=q8_0,seed={}",
                                                              dense, moe, random_.integer(0, 1'000'000))),
                          {});
    ids_.resize(static_cast<size_t>(kTokens));
    for (int32_t& id : ids_) {
      id = static_cast<int32_t>(random_.integer(0, model.config().vocab_size - 1));
    }
    return model;
  }

  /// The last row of the prompt's logits and, behind it, those of a token more.
  std::vector<float> last_rows(const Model& model, const RuntimeOptions& options, CacheType type,
                               Logits logits, ForwardObserver* observer = nullptr) {
    Runtime runtime(model, options);
    CpuCache cache(model.config(), kContext, type);
    std::vector<float> rows;
    const auto keep_last = [&](MatrixView<const float> found) {
      const auto row = found.row(found.rows - 1);
      rows.insert(rows.end(), row.begin(), row.end());
    };
    const int64_t batch = options.max_batch;
    for (int64_t first = 0; first < kTokens; first += batch) {
      const int64_t n = std::min(batch, kTokens - first);
      const bool ends = first + n == kTokens;
      const auto result =
          runtime.forward({.ids = std::span(ids_).subspan(static_cast<size_t>(first), static_cast<size_t>(n)),
                           .first_position = first,
                           .logits = ends || logits == Logits::kAll ? logits : Logits::kNone,
                           .observer = observer,
                           .stop = {}},
                          cache);
      if (ends) keep_last(result.logits);
    }
    keep_last(runtime.forward({.ids = std::span(ids_).first(1), .first_position = kTokens, .stop = {}}, cache)
                  .logits);
    times_ = runtime.layer_times();
    return rows;
  }

  testing::Random random_;
  std::vector<int32_t> ids_;
  LayerTimes times_;  // of the last call
};

TEST_F(LastToken, IsTheLastOfAllBitByBit) {
  SCOPED_TRACE(random_.describe());
  for (const auto& [dense, moe] : {std::pair<int64_t, int64_t>{1, 2}, {2, 0}, {0, 1}}) {
    const Model model = random_model(dense, moe);
    for (const Activations activations : {Activations::kInt8, Activations::kFloat32}) {
      for (const int64_t batch : {2, 33, 96}) {
        const CacheType type = batch == 33 ? CacheType::kFp8Int8 : CacheType::kF32;
        const RuntimeOptions options{.threads = 2, .max_batch = batch, .activations = activations};
        const std::vector<float> expected = last_rows(model, options, type, Logits::kAll);
        EXPECT_TRUE(testing::identical(last_rows(model, options, type, Logits::kLast), expected))
            << dense << " + " << moe << " layers, batch " << batch;
      }
    }
  }
}

/// Counts what it is shown of the last layer.
class Rows : public ForwardObserver {
 public:
  explicit Rows(int64_t layer) : layer_(layer) {}
  void layer_output(int64_t layer, int64_t, MatrixView<const float> x) override {
    rows += layer == layer_ ? x.rows : 0;
  }
  void final_norm(int64_t, MatrixView<const float> x) override { normed += x.rows; }

  int64_t rows = 0;
  int64_t normed = 0;

 private:
  int64_t layer_;
};

TEST_F(LastToken, ObserversSeeEveryToken) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model(1, 2);
  const RuntimeOptions options{.threads = 2, .max_batch = 96};
  Rows seen(2);
  const std::vector<float> watched = last_rows(model, options, CacheType::kBF16, Logits::kLast, &seen);
  EXPECT_EQ(seen.rows, kTokens);
  EXPECT_EQ(seen.normed, kTokens);
  EXPECT_TRUE(testing::identical(last_rows(model, options, CacheType::kBF16, Logits::kLast), watched));
}

// A layer for one token tells nothing of how long layers for many take.
TEST_F(LastToken, ItsLayerIsNotTimedAsOthersAre) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model(1, 2);
  const RuntimeOptions options{.threads = 2, .max_batch = 35, .profile = true};
  last_rows(model, options, CacheType::kBF16, Logits::kLast);  // two passes and one of a token
  EXPECT_EQ(times_.passes, 3);
  EXPECT_EQ(times_.dense_layers, 3);
  EXPECT_EQ(times_.moe_layers, 2 * 1 + 2);
  EXPECT_EQ(times_.blocks.layers, 2 * 1 + 2);
  last_rows(model, options, CacheType::kBF16, Logits::kAll);
  EXPECT_EQ(times_.moe_layers, 3 * 2);
}

TEST_F(LastToken, MayBeStoppedBeforeItsLayer) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model(1, 2);
  const RuntimeOptions options{.threads = 2, .max_batch = 96};
  Runtime runtime(model, options);
  CpuCache cache(model.config(), kContext, CacheType::kBF16);
  std::stop_source stop;
  const auto result = runtime.forward({.ids = ids_,
                                       .stop = stop.get_token(),
                                       .progress =
                                           [&](int64_t done) {
                                             if (done == 2) stop.request_stop();
                                           }},
                                      cache);
  EXPECT_FALSE(result.completed);
  const auto again = runtime.forward({.ids = ids_, .stop = {}}, cache);
  ASSERT_EQ(again.logits.rows, 1);
  const std::vector<float> expected = last_rows(model, options, CacheType::kBF16, Logits::kAll);
  const auto row = again.logits.row(0);
  EXPECT_TRUE(std::ranges::equal(row, std::span(expected).first(row.size())));
}

}  // namespace
}  // namespace sluice
