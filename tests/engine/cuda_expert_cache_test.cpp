// Experts cached in GPU memory beside the CPU's others: together always the sums of all, while experts come
// and go; whole models with a cache; what is refused.
#include "engine/backends/cuda_expert_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "engine/backends/cuda_expert_stream.h"
#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/graph.h"
#include "offload/expert_store.h"
#include "offload/expert_team.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/model_on_gpu.h"
#include "support/random_experts.h"
#include "support/relative_error.h"

namespace sluice {
namespace {

constexpr int64_t kUsed = 3;
constexpr int64_t kExperts = 12;
constexpr int64_t kModel = 256;
constexpr int64_t kHidden = 256;

/// So that experts come and go all the time.
constexpr offload::ResidencyRules kQuick{.half_life = 20, .copy_hits = 0, .deviations = 0.5};

/// Memory is page-locked in pieces that end within experts, as those of a GiB do.
constexpr int64_t kLockedPiece = int64_t{64} << 10;

/// Two MoE layers behind a dense one, in a store whose memory is page-locked.
class Layers {
 public:
  Layers(quant::DType dtype, int64_t nodes, testing::Random& random)
      : store_(load(dtype, nodes, random)),
        pinned(store_.memory(), 0, kLockedPiece),
        team(store_,
             {.d_model = kModel,
              .d_expert = kHidden,
              .used = kUsed,
              .max_tokens = kFewExpertTokens,
              .arithmetic = offload::ExpertArithmetic::kFloat32},
             workers_),
        experts({.max_tokens = kFewExpertTokens, .d_model = kModel, .d_expert = kHidden, .used = kUsed}) {
    pinned.wait();
  }

  [[nodiscard]] const offload::ExpertStore& store() const { return store_; }
  /// A cache for so many experts.
  [[nodiscard]] CudaExpertCache cache(int64_t slots) const {
    return CudaExpertCache(store_, pinned, 1, kUsed, bytes(slots), kQuick);
  }
  [[nodiscard]] int64_t bytes(int64_t slots) const {
    return expert_cache_bytes({.layers = 2,
                               .experts = kExperts,
                               .used = kUsed,
                               .slot_bytes = streamed_sizes(store_).expert_bytes,
                               .slots = slots});
  }

 private:
  offload::ExpertStore load(quant::DType dtype, int64_t nodes, testing::Random& random) {
    source_.add_dense_layer();
    for (int layer = 0; layer < 2; ++layer) {
      source_.add_layer({.experts = kExperts,
                         .d_model = kModel,
                         .d_expert = kHidden,
                         .gate = dtype,
                         .up = dtype,
                         .down = dtype,
                         .scaled = true},
                        random);
    }
    offload::ExpertStoreOptions how;
    how.homes.assign(static_cast<size_t>(nodes), offload::ExpertHome{});
    how.policy = offload::MemoryPolicy::kAnywhere;
    return std::move(offload::ExpertStore::load(source_, how, workers_).value());
  }

  testing::RandomExperts source_;
  offload::Workers workers_{2};
  offload::ExpertStore store_;

 public:
  CudaPinnedStore pinned;
  offload::ExpertTeam team;
  CudaExperts experts;
};

/// The choices of some tokens, of experts that are drawn more often the lower their number is, which a later
/// `shift` changes.
class Choices {
 public:
  Choices(int64_t tokens, int64_t shift, testing::Random& random) : tokens_(tokens) {
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<int32_t> row;
      while (std::ssize(row) < kUsed) {
        const int64_t drawn = std::min(random.integer(0, kExperts - 1), random.integer(0, kExperts - 1));
        const auto id = static_cast<int32_t>((drawn + shift) % kExperts);
        if (std::ranges::find(row, id) == row.end()) row.push_back(id);
      }
      std::ranges::sort(row);
      ids_.insert(ids_.end(), row.begin(), row.end());
    }
    weights_ = random.normal(tokens * kUsed);
  }

  [[nodiscard]] offload::Routes routes() const {
    return {{ids_.data(), tokens_, kUsed}, {weights_.data(), tokens_, kUsed}};
  }
  [[nodiscard]] const std::vector<int32_t>& ids() const { return ids_; }
  [[nodiscard]] const std::vector<float>& weights() const { return weights_; }

 private:
  int64_t tokens_;
  std::vector<int32_t> ids_;
  std::vector<float> weights_;
};

class CudaExpertCacheTest : public testing::OnGpu {
 protected:
  /// A layer of a pass: the GPU's part and the CPU's are the sum of all.
  void check_layer(Layers& layers, CudaExpertCache& cache, int64_t layer, const Choices& choices) {
    const int64_t n = choices.routes().ids.rows;
    const std::vector<float> f = random_.normal(n * kModel);
    const std::vector<float> before = random_.normal(n * kModel);
    std::vector<float> expected = before;
    layers.team.add(layer, {f.data(), n, kModel}, choices.routes(), {expected.data(), n, kModel});

    const cuda::DeviceBuffer<float> f_there(f);
    const cuda::DeviceBuffer<float> y(before);
    const cuda::DeviceBuffer<int32_t> ids(choices.ids());
    const cuda::DeviceBuffer<float> weights(choices.weights());
    cache.put(layer, {ids.data(), weights.data(), n}, layers.experts, f_there.data(), y.data(), stream());
    std::vector<float> found = y.to_host(stream());
    const offload::Routes left = cache.take(layer, choices.routes());
    layers.team.add(layer, {f.data(), n, kModel}, left, {found.data(), n, kModel});
    EXPECT_LT(testing::relative_rms(expected, found), 1e-5);
  }
};

TEST_F(CudaExpertCacheTest, WithTheCpuAlwaysTheSumOfAll) {
  SCOPED_TRACE(random_.describe());
  using quant::DType;
  for (const DType dtype : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_K}) {
    for (const int64_t nodes : {1, 2}) {
      if (dtype == DType::kQ4_K && nodes == 2) continue;  // a share of 128 columns is no block
      Layers layers(dtype, nodes, random_);
      CudaExpertCache cache = layers.cache(5);
      ASSERT_EQ(cache.slots(), 5);
      for (int pass = 0; pass < 120; ++pass) {
        cache.begin_pass(stream());
        const int64_t n = pass % 10 == 0 ? random_.integer(2, kFewExpertTokens) : 1;
        for (const int64_t layer : {1, 2}) {
          check_layer(layers, cache, layer, Choices(n, pass < 60 ? 0 : 6, random_));
        }
        if (HasFailure()) FAIL() << quant::dtype_info(dtype).name << ", pass " << pass;
      }
      EXPECT_GT(cache.use().hits, 50) << "slots were filled";
      EXPECT_LT(cache.use().hits, cache.use().choices);
    }
  }
}

TEST_F(CudaExpertCacheTest, NothingComesBeforeMemoryIsLocked) {
  SCOPED_TRACE(random_.describe());
  Layers layers(quant::DType::kQ8_0, 1, random_);
  const CudaPinnedStore nothing({}, 0);
  nothing.wait();
  CudaExpertCache cache(layers.store(), nothing, 1, kUsed, layers.bytes(4));
  for (int pass = 0; pass < 20; ++pass) {
    cache.begin_pass(stream());
    check_layer(layers, cache, 1, Choices(1, 0, random_));
    cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  EXPECT_EQ(cache.use().hits, 0);
  EXPECT_EQ(cache.use().choices, 20 * kUsed);
}

TEST_F(CudaExpertCacheTest, RefusesTypesThatAreNotQuantized) {
  SCOPED_TRACE(random_.describe());
  const Layers floats(quant::DType::kBF16, 1, random_);
  const std::string text = testing::error_text([&] { return floats.cache(4).slots(); });
  EXPECT_NE(text.find("--expert-cache"), std::string::npos) << text;
  EXPECT_NE(text.find("not quantized"), std::string::npos) << text;
}

TEST_F(CudaExpertCacheTest, RefusesWhatHasNoRoom) {
  SCOPED_TRACE(random_.describe());
  const Layers layers(quant::DType::kQ8_0, 1, random_);
  const auto refusal = [&](int64_t first_layer, int64_t bytes) {
    return testing::error_text(
        [&] { return CudaExpertCache(layers.store(), layers.pinned, first_layer, kUsed, bytes).slots(); });
  };
  EXPECT_NE(refusal(1, layers.bytes(1) - 1).find("--expert-cache"), std::string::npos);
  EXPECT_NE(refusal(3, 1 << 30).find("no experts"), std::string::npos) << refusal(3, 1 << 30);
}

class CudaCachedModel : public testing::ModelOnGpu {};

// Tokens one by one through the captured graph, with all precision: what is computed where does not matter.
TEST_F(CudaCachedModel, GivesTheLogitsOfTheCpu) {
  SCOPED_TRACE(random_.describe());
  for (const char* const type : {"q8_0", "nvfp4"}) {
    const Model model = random_model(type);
    RuntimeOptions cached = testing::exact_on(Device::kGpu, 1);
    cached.attention = AttentionMode::kDense;
    cached.prefill = Prefill::kCpu;
    cached.profile = true;
    RuntimeOptions without = cached;
    cached.expert_cache_bytes = 2 << 20;
    Runtime runtime(model, cached);
    const std::vector<float> found = logits(runtime);
    const std::vector<float> expected = logits(model, without);
    EXPECT_LT(testing::at_share(testing::row_errors(found, expected, kTokens), 0.5), 1e-3) << type;
    const BlockTimes& blocks = runtime.layer_times().blocks;
    EXPECT_GT(blocks.cache_hits, 0) << type;
    EXPECT_LT(blocks.cache_hits, blocks.cache_choices) << type;
    EXPECT_NE(runtime.description().find("recent tokens"), std::string::npos) << runtime.description();
  }
}

// Long prompts are streamed or the CPU's, short ones and single tokens use the cache.
TEST_F(CudaCachedModel, LongAndShortPassesTakeTurns) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  for (const Prefill prefill : {Prefill::kAuto, Prefill::kCpu, Prefill::kStream}) {
    RuntimeOptions cached{.max_batch = 64,
                          .attention = AttentionMode::kDense,
                          .device = Device::kGpu,
                          .prefill = prefill,
                          .expert_cache_bytes = 2 << 20};
    Runtime runtime(model, cached);
    Session session(runtime, kContext, CacheType::kF32);
    for (int64_t at = 0, n = 1; at + n <= kTokens; at += n, n = random_.integer(0, 2) == 0 ? 40 : 1) {
      session.prefill(std::span(ids_).first(static_cast<size_t>(at + n)));
    }
    EXPECT_FALSE(std::ranges::any_of(session.logits(), [](float v) { return !std::isfinite(v); }));
  }
}

}  // namespace
}  // namespace sluice
