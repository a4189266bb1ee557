#include "bench/layer_speed.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "bench/timing.h"
#include "engine/synth/expert_source.h"
#include "engine/synth/model_spec.h"
#include "engine/synth/recipe.h"
#include "offload/read_loop.h"

namespace sluice::bench {
namespace {

constexpr int64_t kModelDim = 7168;
constexpr int64_t kExpertDim = 2048;
constexpr int64_t kUsed = 8;

offload::ExpertStore load(quant::DType dtype, int64_t experts, offload::Workers& workers) {
  const synth::ModelSpec spec{.dense_layers = 0, .moe_layers = 1, .type = dtype, .experts = experts};
  const ModelConfig config = synth::config_of(spec);
  const synth::SyntheticExperts source(synth::to_text(spec), synth::plan_tensors(spec, config), config);
  return std::move(*offload::ExpertStore::load(source, {}, workers));
}

}  // namespace

LayerSpeed::LayerSpeed(quant::DType dtype, int64_t experts, offload::Workers& workers)
    : workers_(workers),
      store_(load(dtype, experts, workers)),
      team_(store_,
            {.d_model = kModelDim,
             .d_expert = kExpertDim,
             .used = kUsed,
             .max_tokens = 1,
             .arithmetic = offload::ExpertArithmetic::kInt8,
             .isa = cpu::chosen_isa()},
            workers),
      experts_(experts) {}

Share LayerSpeed::one_token(int64_t repeats) {
  std::vector<int32_t> ids(static_cast<size_t>(experts_));
  std::iota(ids.begin(), ids.end(), 0);
  std::array<float, kUsed> weights;
  weights.fill(1.0F / kUsed);
  std::vector<float> f(kModelDim);
  std::normal_distribution<float> normal;
  std::ranges::generate(f, [&] { return normal(random_); });
  std::vector<float> y(kModelDim);
  const std::span<const std::byte> arena = store_.arenas()[0].bytes();
  const size_t expert_bytes = arena.size() / static_cast<size_t>(experts_);
  const double bytes = static_cast<double>(expert_bytes) * kUsed;
  std::vector<Share> shares;
  for (int64_t i = 0; i < repeats; ++i) {
    std::ranges::shuffle(ids, random_);
    std::sort(ids.begin(), ids.begin() + kUsed);
    const offload::Routes routes{{ids.data(), 1, kUsed}, {weights.data(), 1, kUsed}};
    const double layer = seconds_of([&] {
      team_.add(0, {f.data(), 1, kModelDim}, routes, {y.data(), 1, kModelDim});
    });
    // Eight other experts, each read by all threads together.
    const double read = seconds_of([&] {
      workers_.on_all([&](int64_t worker) {
        const size_t piece = expert_bytes / static_cast<size_t>(workers_.threads()) / 64 * 64;
        for (size_t e = 0; e < kUsed; ++e) {
          const size_t at = static_cast<size_t>(ids[kUsed + e]) * expert_bytes;
          offload::read_through(arena.subspan(at + static_cast<size_t>(worker) * piece, piece));
        }
      });
    });
    shares.push_back({.measured = bytes / layer, .floor = bytes / read});
  }
  return middle(std::move(shares));
}

}  // namespace sluice::bench
