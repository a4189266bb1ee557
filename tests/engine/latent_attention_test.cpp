// Scores, selection and attention over a cache: the same bits however many workers share the tokens and
// however the tokens are batched.
#include "engine/backends/latent_attention.h"

#include <algorithm>
#include <map>

#include "support/compare.h"
#include "support/every_isa.h"

namespace sluice::testing {
namespace {

constexpr int64_t kContext = 1500;

ModelConfig shape() {
  ModelConfig c;
  c.layers = 1;
  c.heads = 40;  // more than a panel, no multiple of a vector
  c.d_latent = 32;
  c.d_nope = 16;
  c.d_rope = 8;
  c.d_value = 16;
  c.index_heads = 5;
  c.d_index = 24;
  c.index_top_k = 600;  // several pieces
  return c;
}

/// What was selected, by position.
class Selections : public ForwardObserver {
 public:
  void selection(int64_t /*layer*/, int64_t position, std::span<const int32_t> selected,
                 std::span<const float> scores) override {
    chosen[position].assign(selected.begin(), selected.end());
    n_scores[position] = static_cast<int64_t>(scores.size());
  }

  std::map<int64_t, std::vector<int32_t>> chosen;
  std::map<int64_t, int64_t> n_scores;
};

class LatentAttentionTest : public EveryIsa {
 protected:
  static constexpr int64_t kFirst = 570;  // before the first selection
  static constexpr int64_t kTokens = 60;

  LatentAttentionTest() : cache_(config_, kContext, CacheType::kBF16) {
    for (int64_t position = 0; position < kContext; ++position) {
      cache_.store_latent(kernels_, 0, position, random_.normal(config_.d_cache()));
      cache_.store_index_key(kernels_, 0, position, random_.normal(config_.d_index));
    }
  }

  /// The outputs of kTokens tokens from `first` on, `batch` at a time.
  std::vector<float> attend(int64_t first, int64_t threads, int64_t batch, AttentionMode mode,
                            ForwardObserver* observer = nullptr) {
    offload::Workers workers(threads);
    LatentAttention attention(config_, kernels_, workers);
    const std::vector<int32_t> ids(static_cast<size_t>(kTokens));
    const int64_t out_cols = config_.heads * config_.d_latent;
    std::vector<float> out(static_cast<size_t>(kTokens * out_cols));
    for (int64_t begin = 0; begin < kTokens; begin += batch) {
      const int64_t n = std::min(batch, kTokens - begin);
      attention.attend(0,
                       {.ids = std::span(ids).first(static_cast<size_t>(n)),
                        .first_position = first + begin,
                        .attention = mode,
                        .cache = &cache_,
                        .observer = observer},
                       {view(heads_, config_.heads * config_.d_cache()).rows_from(begin, n),
                        view(index_heads_, config_.index_heads * config_.d_index).rows_from(begin, n),
                        view(index_weights_, config_.index_heads).rows_from(begin, n)},
                       {out.data() + begin * out_cols, n, out_cols});
    }
    return out;
  }

  static MatrixView<const float> view(const std::vector<float>& values, int64_t cols) {
    return {values.data(), kTokens, cols};
  }

  ModelConfig config_ = shape();
  CpuCache cache_;
  std::vector<float> heads_ = random_.normal(kTokens * config_.heads * config_.d_cache());
  std::vector<float> index_heads_ = random_.normal(kTokens * config_.index_heads * config_.d_index);
  std::vector<float> index_weights_ = random_.normal(kTokens * config_.index_heads);
};

TEST_P(LatentAttentionTest, ThreadsAndBatchesDoNotChangeABit) {
  SCOPED_TRACE(random_.describe());
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    for (const int64_t first : {kFirst, kContext - kTokens}) {
      const std::vector<float> expected = attend(first, 1, 1, mode);
      for (const int64_t threads : {1, 2, 7}) {
        for (const int64_t batch : {int64_t{1}, int64_t{3}, int64_t{9}, kTokens}) {
          ASSERT_TRUE(identical(attend(first, threads, batch, mode), expected))
              << threads << " threads, " << batch << " tokens at once";
        }
      }
    }
  }
}

TEST_P(LatentAttentionTest, SelectsTopKOfWhatATokenSees) {
  SCOPED_TRACE(random_.describe());
  for (const int64_t batch : {int64_t{1}, int64_t{5}, kTokens}) {
    Selections seen;
    attend(kFirst, 3, batch, AttentionMode::kSparse, &seen);
    ASSERT_EQ(seen.chosen.size(), static_cast<size_t>(kTokens));
    for (int64_t position = kFirst; position < kFirst + kTokens; ++position) {
      const bool selects = position + 1 > config_.index_top_k;
      EXPECT_EQ(seen.n_scores[position], selects ? position + 1 : 0) << position;
      const std::vector<int32_t>& chosen = seen.chosen[position];
      ASSERT_EQ(static_cast<int64_t>(chosen.size()), selects ? config_.index_top_k : 0) << position;
      EXPECT_TRUE(std::ranges::is_sorted(chosen)) << position;
      EXPECT_TRUE(chosen.empty() || chosen.back() <= position) << position;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, LatentAttentionTest, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
