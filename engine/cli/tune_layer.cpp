#include "engine/cli/tune_layer.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/load_stopped.h"
#include "engine/plan_input.h"
#include "engine/synth/expert_source.h"
#include "engine/synth/open_model.h"
#include "engine/synth/recipe.h"
#include "offload/expert_store.h"
#include "offload/expert_team.h"
#include "offload/workers.h"

namespace sluice::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kExperts = 16;
constexpr int64_t kTokensPerExpert = 16;
constexpr double kSeconds = 0.5;
constexpr int64_t kTile = 512;
constexpr int64_t kDecoded = 32;
constexpr int64_t kPasses = 3;
constexpr double kLeastLaunchUs = 0.5;

synth::ModelSpec moe_layers(int64_t count) {
  return {.dense_layers = 0, .moe_layers = count, .experts = kExperts};
}

/// Every expert of the layer with as many tokens.
class ExpertRun {
 public:
  ExpertRun(const ModelConfig& config, const offload::ExpertWeights& weights, cpu::Isa isa,
            offload::Workers& workers)
      : used_(config.router.experts_used),
        tokens_(kExperts * kTokensPerExpert / used_),
        d_model_(config.d_model),
        team_(weights,
              {.d_model = d_model_,
               .d_expert = config.d_expert,
               .used = used_,
               .max_tokens = tokens_,
               .arithmetic = offload::ExpertArithmetic::kInt8,
               .isa = isa},
              workers),
        f_(static_cast<size_t>(tokens_ * d_model_), 0.5F),
        y_(f_.size()),
        ids_(static_cast<size_t>(tokens_ * used_)),
        shares_(ids_.size(), 1.0F / static_cast<float>(used_)),
        operations_(6.0 * static_cast<double>(tokens_ * used_ * d_model_ * config.d_expert)) {
    for (size_t i = 0; i < ids_.size(); ++i) {  // even tokens take the first half, odd ones the second
      const auto token = static_cast<int64_t>(i) / used_;
      ids_[i] = static_cast<int32_t>(token % (kExperts / used_) * used_ + static_cast<int64_t>(i) % used_);
    }
  }

  double seconds() {
    const auto begin = Clock::now();
    team_.add(0, {f_.data(), tokens_, d_model_},
              {{ids_.data(), tokens_, used_}, {shares_.data(), tokens_, used_}},
              {y_.data(), tokens_, d_model_});
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  [[nodiscard]] double operations() const { return operations_; }

 private:
  int64_t used_;
  int64_t tokens_;
  int64_t d_model_;
  offload::ExpertTeam team_;
  std::vector<float> f_;
  std::vector<float> y_;
  std::vector<int32_t> ids_;
  std::vector<float> shares_;
  double operations_;
};

/// A runtime of layers on the GPU, and tokens through them.
class LayersOnGpu {
 public:
  explicit LayersOnGpu(const Model& model)
      : runtime_(model, {.max_batch = kTile,
                         .tile = kTile,
                         .device = Device::kGpu,
                         .prefill = Prefill::kCpu,
                         .profile = true}),
        cache_(runtime_.make_cache(2 * kTile, CacheType::kBF16)),
        ids_(static_cast<size_t>(kTile)) {
    std::iota(ids_.begin(), ids_.end(), 0);
  }

  /// Of `count` tokens from `first` on, in one pass.
  BlockTimes pass(int64_t first, int64_t count) {
    const BlockTimes before = runtime_.layer_times().blocks;
    static_cast<void>(runtime_.forward(
        {.ids = std::span(ids_).first(static_cast<size_t>(count)), .first_position = first}, *cache_));
    return runtime_.layer_times().blocks - before;
  }

 private:
  Runtime runtime_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> ids_;
};

/// What the GPU did in a layer before and beside the experts.
double gpu_us(const BlockTimes& times) {
  return static_cast<double>(times.attention_ns + times.route_ns + times.shared_ns) / 1e3 /
         static_cast<double>(times.layers);
}

}  // namespace

double measure_expert_gops(const offload::Machine& machine, cpu::Isa isa, const std::stop_token& stop) {
  const synth::ModelSpec spec = moe_layers(1);
  const ModelConfig config = synth::config_of(spec);
  const synth::SyntheticExperts source(synth::to_text(spec), synth::plan_tensors(spec, config), config);
  offload::Workers workers(offload::place_threads(machine, machine.cores));
  offload::ExpertStoreOptions how;
  how.stop = stop;
  const auto store = offload::ExpertStore::load(source, how, workers);
  if (!store.has_value()) {
    return 0;
  }
  const offload::ThreadBinding binding = workers.bind_caller();
  ExpertRun run(config, *store, isa, workers);
  double best = run.seconds();
  for (double spent = 0; spent < kSeconds;) {
    if (stop.stop_requested()) {
      return 0;
    }
    const double seconds = run.seconds();
    best = std::min(best, seconds);
    spent += seconds;
  }
  return run.operations() / best / 1e9;
}

bool measure_gpu_layer(offload::GpuProfile& gpu, const std::stop_token& stop) {
  try {
    // Two, because several tokens go through all layers but the last.
    const Model model = synth::open_model(moe_layers(2), {.stop = stop});
    LayersOnGpu layers(model);
    double tile_us = 1e12;
    double token_us = 0;
    for (int64_t i = 0; i < kPasses && !stop.stop_requested(); ++i) {
      tile_us = std::min(tile_us, gpu_us(layers.pass(0, kTile)));
    }
    static_cast<void>(layers.pass(kTile, 1));  // captures the graph
    for (int64_t i = 1; i <= kDecoded && !stop.stop_requested(); ++i) {
      token_us += gpu_us(layers.pass(kTile + i, 1)) / static_cast<double>(kDecoded);
    }
    if (stop.stop_requested()) {
      return false;
    }
    const offload::PlanModel plan =
        plan_model(model.config(), model.file().tensors(), {}, model.path().string());
    const offload::PlanLayer& planned = plan.layers.front();
    gpu.bf16_tflops = static_cast<double>(kTile) * planned.weight_operations / tile_us / 1e6;
    const double reading_us = static_cast<double>(planned.gpu_weights) / gpu.read_gb_per_s / 1e3;
    gpu.launch_us = std::max((token_us - reading_us) / static_cast<double>(planned.kernels), kLeastLaunchUs);
    return true;
  } catch (const LoadStopped&) {
    return false;
  }
}

}  // namespace sluice::cli
