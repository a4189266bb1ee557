// The forward pass on small random models: reference against backend, batching, attention modes, saved
// sessions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/backends/reference.h"
#include "engine/convert/convert.h"
#include "engine/engine.h"
#include "quant/base/error.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/random_tensors.h"
#include "support/temporary_directory.h"
#include "support/tiny_checkpoint.h"

namespace sluice {
namespace {

using testing::Random;

constexpr int64_t kTokens = 29;  // well past the index top-k of 8

class Forward : public ::testing::Test {
 protected:
  explicit Forward(const ModelConfig& config = testing::tiny_config())
      : model_(make_model(config)), ids_(static_cast<size_t>(kTokens)) {
    for (int32_t& id : ids_) {
      id = static_cast<int32_t>(random_.integer(0, model_.config().vocab_size - 1));
    }
  }

  Model make_model(const ModelConfig& config) {
    std::filesystem::create_directories(directory_ / "checkpoint");
    testing::TinyCheckpointOptions checkpoint;
    checkpoint.config = config;
    testing::write_tiny_checkpoint(directory_ / "checkpoint", checkpoint, random_);
    ConvertOptions options;
    options.dtype = quant::DType::kBF16;
    convert_checkpoint(directory_ / "checkpoint", directory_ / "model.gguf", options);
    return Model::load(directory_ / "model.gguf");
  }

  // Logits of the last token when the prompt comes in batches of `batch`.
  std::vector<float> last_logits(AttentionMode attention, int64_t batch, int64_t threads,
                                 int64_t tokens = kTokens) {
    Runtime runtime(model_, {.threads = threads, .max_batch = batch, .attention = attention});
    Session session(runtime, 64, CacheType::kF32);
    session.prefill(std::span(ids_).first(static_cast<size_t>(tokens)));
    return {session.logits().begin(), session.logits().end()};
  }

  std::vector<float> reference(AttentionMode attention, AttentionForm form) {
    const std::vector<float> all =
        reference_forward(model_, ids_, {.attention = attention, .form = form, .observer = nullptr});
    return {all.end() - model_.config().vocab_size, all.end()};
  }

  Random random_;
  testing::TemporaryDirectory directory_;
  Model model_;
  std::vector<int32_t> ids_;
};

TEST_F(Forward, BatchesAndThreadsDoNotChangeABit) {
  SCOPED_TRACE(random_.describe());
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    const std::vector<float> whole = last_logits(mode, 64, 1);
    EXPECT_TRUE(testing::identical(last_logits(mode, 7, 1), whole));
    EXPECT_TRUE(testing::identical(last_logits(mode, 1, 1), whole));
    EXPECT_TRUE(testing::identical(last_logits(mode, 64, 3), whole));
    EXPECT_TRUE(testing::identical(last_logits(mode, 1, 2), whole));
  }
}

/// Every token uses every expert: no rounding can change a choice.
ModelConfig config_without_choices() {
  ModelConfig config = testing::tiny_config();
  config.router.groups_used = config.router.groups;
  config.router.experts_used = config.router.experts;
  return config;
}

// The same weights in Q8_0, whose products take int8 activations unless told otherwise.
class QuantizedForward : public Forward {
 protected:
  QuantizedForward() : Forward(config_without_choices()) {
    ConvertOptions options;
    options.dtype = quant::DType::kQ8_0;
    convert_checkpoint(directory_ / "checkpoint", directory_ / "q8_0.gguf", options);
  }

  /// Of every position, [kTokens, vocabulary].
  std::vector<float> logits(const RuntimeOptions& options) {
    const Model model = Model::load(directory_ / "q8_0.gguf");
    Runtime runtime(model, options);
    CpuCache cache(model.config(), 64, CacheType::kF32);
    std::vector<float> all;
    const int64_t batch = runtime.options().max_batch;
    for (int64_t first = 0; first < kTokens; first += batch) {
      const int64_t n = std::min(batch, kTokens - first);
      const std::span<const int32_t> ids =
          std::span(ids_).subspan(static_cast<size_t>(first), static_cast<size_t>(n));
      const MatrixView<const float> rows =
          runtime.forward({.ids = ids, .first_position = first, .logits = Logits::kAll, .stop = {}}, cache)
              .logits;
      all.insert(all.end(), rows.data, rows.data + n * rows.cols);
    }
    return all;
  }
};

/// The largest |a - b| / |b| of any row.
double largest_row_error(std::span<const float> a, std::span<const float> b, size_t rows) {
  double largest = 0;
  const size_t cols = a.size() / rows;
  for (size_t r = 0; r < rows; ++r) {
    double error = 0;
    double total = 0;
    for (size_t i = r * cols; i < (r + 1) * cols; ++i) {
      error += std::pow(a[i] - b[i], 2);
      total += std::pow(b[i], 2);
    }
    largest = std::max(largest, std::sqrt(error / total));
  }
  return largest;
}

TEST_F(QuantizedForward, Int8ActivationsStayNearFloat32AndDoNotDependOnBatches) {
  SCOPED_TRACE(random_.describe());
  // Dense, so that no selection can flip.
  const RuntimeOptions int8{.threads = 2, .attention = AttentionMode::kDense};
  RuntimeOptions exact = int8;
  exact.activations = Activations::kFloat32;
  RuntimeOptions one_by_one = int8;
  one_by_one.max_batch = 1;
  const std::vector<float> fast = logits(int8);
  EXPECT_TRUE(testing::identical(logits(one_by_one), fast));
  const double error = largest_row_error(fast, logits(exact), kTokens);
  EXPECT_GT(error, 0.0) << "int8 activations were not used";
  EXPECT_LT(error, 0.12);
}

TEST_F(Forward, DenseEqualsSparseUpToTopKAndDiffersBeyond) {
  SCOPED_TRACE(random_.describe());
  const int64_t top_k = model_.config().index_top_k;
  EXPECT_TRUE(testing::identical(last_logits(AttentionMode::kSparse, 64, 2, top_k),
                                 last_logits(AttentionMode::kDense, 64, 2, top_k)));
  EXPECT_FALSE(testing::identical(last_logits(AttentionMode::kSparse, 64, 2),
                                  last_logits(AttentionMode::kDense, 64, 2)));
}

TEST_F(Forward, ReferenceFormsAndBackendAgree) {
  SCOPED_TRACE(random_.describe());
  const std::vector<float> expanded = reference(AttentionMode::kDense, AttentionForm::kExpanded);
  const std::vector<float> absorbed = reference(AttentionMode::kDense, AttentionForm::kAbsorbed);
  const std::vector<float> backend = last_logits(AttentionMode::kDense, 64, 2);
  EXPECT_TRUE(testing::close(absorbed, expanded, 1e-3, 1e-3));
  EXPECT_TRUE(testing::close(backend, expanded, 1e-3, 1e-3));
}

TEST_F(Forward, SavedSessionContinuesIdentically) {
  SCOPED_TRACE(random_.describe());
  Runtime runtime(model_, {.threads = 2});
  for (const CacheType type : {CacheType::kBF16, CacheType::kBF16Int8}) {
    Session session(runtime, 64, type);
    session.prefill(ids_);
    session.save(directory_ / "session");
    Session loaded(runtime, 64, type);
    loaded.load(directory_ / "session");
    session.append(3);
    loaded.append(3);
    EXPECT_TRUE(testing::identical(session.logits(), loaded.logits())) << cache_type_name(type);

    Session other(runtime, 64, CacheType::kF32);
    EXPECT_THROW(other.load(directory_ / "session"), Error);
    EXPECT_TRUE(other.tokens().empty());
  }
}

TEST_F(Forward, ALargerCacheAfterASmallerOneGivesTheSame) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t threads : {1, 2}) {
    Runtime runtime(model_, {.threads = threads, .max_batch = 12});
    Session small(runtime, 16, CacheType::kF32);
    small.prefill(std::span(ids_).first(12));
    // The same tokens are visible, but rows of scores lie farther apart.
    Session large(runtime, 64, CacheType::kF32);
    large.prefill(std::span(ids_).first(12));
    EXPECT_TRUE(testing::identical(large.logits(), small.logits())) << threads;
  }
}

TEST_F(Forward, ACacheTypeThatTheModelsRowsDoNotFitIsRefused) {
  ModelConfig config = model_.config();
  config.d_latent = 192;
  EXPECT_THROW(CpuCache(config, 4, CacheType::kFp8), Error);
  config.d_latent = 256;
  config.d_index = 96;
  EXPECT_THROW(CpuCache(config, 4, CacheType::kFp8Int8), Error);
  EXPECT_EQ(CpuCache(config, 4, CacheType::kFp8).row_bytes(CachePart::kLatent), 256 + 8 + 2 * config.d_rope);
}

// Also where the system would hand out more than it has, as Linux does.
TEST_F(Forward, ACacheThatDoesNotFitInMemoryIsRefusedWithTheNumbers) {
  const std::string text = testing::error_text(
      [&] { return CpuCache(model_.config(), int64_t{1} << 36, CacheType::kBF16).capacity(); });
  EXPECT_TRUE(
      text.starts_with("-c/--ctx-size: expected a context whose cache fits in memory (68719476736 tokens "
                       "need "))
      << text;
  EXPECT_TRUE(text.ends_with(" GB available")) << text;
}

TEST_F(Forward, PrefillReusesTheCommonPrefix) {
  SCOPED_TRACE(random_.describe());
  Runtime runtime(model_, {.threads = 1});
  Session session(runtime, 64, CacheType::kF32);
  session.prefill(std::span(ids_).first(20));
  std::vector<int32_t> changed(ids_);
  changed[15] = (changed[15] + 1) % static_cast<int32_t>(model_.config().vocab_size);
  EXPECT_EQ(session.prefill(changed).cached, 15);
  EXPECT_EQ(session.prefill(changed).cached, kTokens);
  EXPECT_THROW(session.prefill(std::vector<int32_t>(65, 1)), Error);
  EXPECT_THROW(session.prefill(std::vector<int32_t>{-1}), Error);
}

}  // namespace
}  // namespace sluice
