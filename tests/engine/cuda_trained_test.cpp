// The trained model that comes with the program, on a GPU: what it makes of a text of its own is what the CPU
// makes of it, with every type of cache and with the layers divided.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <vector>

#include "engine/perplexity.h"
#include "support/model_on_gpu.h"
#include "support/places.h"

namespace sluice {
namespace {

const std::filesystem::path kModel = testing::source_directory() / "models/tiny.gguf";
constexpr int64_t kWindow = 700;

class CudaTrained : public testing::OnGpu {
 protected:
  void SetUp() override {
    OnGpu::SetUp();
    if (!IsSkipped() && !std::filesystem::exists(kModel)) GTEST_SKIP() << kModel << " is not there";
  }

  /// `text` scored with a cache of the type.
  static double mean_nll(const Model& model, const std::vector<int32_t>& text, const RuntimeOptions& options,
                         CacheType type) {
    Runtime runtime(model, options);
    const auto cache = runtime.make_cache(kWindow, type);
    return score_window(runtime, *cache, {.ids = text, .first_scored = 0}, {}).value().mean();
  }

  /// What the model tells on the CPU.
  static std::vector<int32_t> story(const Model& model) {
    Runtime runtime(model, {});
    Session session(runtime, kWindow, CacheType::kBF16);
    const std::vector<int32_t> begin = model.tokenizer().encode("Once upon a time", SpecialTokens::kAsText);
    session.prefill(begin);
    Sampler sampler({.temperature = 1.0F, .seed = 7});
    GenerateOptions options;
    options.max_tokens = kWindow - static_cast<int64_t>(begin.size());
    options.ignore_eos = true;
    const std::vector<int32_t> told = session.generate(sampler, options).ids;
    std::vector<int32_t> text = begin;
    text.insert(text.end(), told.begin(), told.end());
    return text;
  }
};

TEST_F(CudaTrained, PerplexityWithEveryCacheIsTheCpus) {
  const Model model = Model::load(kModel);
  ASSERT_LT(model.config().index_top_k, kWindow);
  const std::vector<int32_t> text = story(model);
  ASSERT_EQ(text.size(), static_cast<size_t>(kWindow));
  for (const CacheType type :
       {CacheType::kF32, CacheType::kBF16, CacheType::kBF16Int8, CacheType::kFp8, CacheType::kFp8Int8}) {
    const double expected = mean_nll(model, text, testing::exact_on(Device::kCpu, 64), type);
    for (const int64_t border : {int64_t{0}, model.config().layers / 2}) {
      RuntimeOptions options = testing::exact_on(Device::kGpu, 64);
      options.first_gpu_layer = border;
      const double found = mean_nll(model, text, options, type);
      // 0.3 % of the perplexity.
      EXPECT_NEAR(found, expected, 0.003) << cache_type_name(type) << ", border " << border;
      fmt::print("{:9} first layer {}: mean NLL {:.6f}, CPU {:.6f}\n", cache_type_name(type), border, found,
                 expected);
    }
  }
}

}  // namespace
}  // namespace sluice
