#include "bench/cuda_layer_speed.h"

#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/synth/open_model.h"

namespace sluice::bench {
namespace {

constexpr const char* kModel = "synth:deepseek-v3.2,dense=1,moe=2,experts=32,type=nvfp4";
constexpr int64_t kContext = 512;
constexpr int64_t kWarmUp = 16;   // tokens: graphs are captured, workers woken
constexpr int64_t kTokens = 128;  // that are measured

/// Of `tokens` tokens one after the other; ids have no meaning to random weights.
BlockTimes decode(Session& session, int64_t tokens) {
  const BlockTimes before = session.runtime().layer_times().blocks;
  for (int64_t t = 0; t < tokens; ++t) session.append(static_cast<int32_t>(1000 + 37 * t));
  return session.runtime().layer_times().blocks - before;
}

}  // namespace

void guard_cuda_layer(Report& report) {
  const Model model = synth::open_model(synth::parse_model_spec(kModel), {});
  RuntimeOptions options;
  options.device = Device::kGpu;
  options.profile = true;
  options.planned_context = kContext;
  Runtime runtime(model, options);
  Session session(runtime, kContext, CacheType::kBF16);
  static_cast<void>(decode(session, kWarmUp));
  const BlockTimes times = decode(session, kTokens);
  const auto us = [&](int64_t ns) {
    return static_cast<double>(ns) * 1e-3 / static_cast<double>(times.layers);
  };
  const double gpu = us(times.attention_ns + times.route_ns + times.shared_ns);
  const double layer = gpu + us(times.waiting_ns);
  const double experts = us(times.experts_ns);
  report.line("MoE layer, experts in memory", fmt::format("{:.0f} us", layer),
              fmt::format("{:.0f} + {:.0f} + {:.0f} us", gpu, experts, kHandoverUs),
              layer / (gpu + experts + kHandoverUs), Bar::kAtMost, 1.10);
}

}  // namespace sluice::bench
