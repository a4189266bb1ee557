#include "bench/prefill_speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <span>
#include <utility>

#include "bench/cuda_floors.h"
#include "bench/timing.h"
#include "engine/engine.h"
#include "engine/loaded_weights.h"
#include "engine/memory_need.h"
#include "engine/synth/open_model.h"
#include "offload/machine.h"
#include "offload/workers.h"
#include "quant/base/error.h"

namespace sluice::bench {
namespace {

constexpr double kManySeconds = 5;  // so long a prompt is measured once
constexpr int kMostWarmUps = 6;

void say(const std::string& text) {
  fmt::print(stderr, "guard_prefill: {}\n", text);
}

double gb(double bytes) {
  return bytes * 1e-9;
}

/// The weights of a model, ready for runtimes that differ in how prompts are computed.
class Weights {
 public:
  Weights(const Model& model, const RuntimeOptions& options)
      : machine_(offload::probe_machine()),
        workers_(runtime_places(machine_, options.threads)),
        weights_(load(model, options)) {}

  [[nodiscard]] const LoadedWeights& loaded() const { return *weights_; }

 private:
  std::unique_ptr<LoadedWeights> load(const Model& model, RuntimeOptions options) {
    const char* const place = options.gpu_expert_layers.empty() ? "memory" : "the GPU's memory";
    say(fmt::format("{:.1f} GB of experts to {}", gb(static_cast<double>(expert_bytes(model.weights()))),
                    place));
    return std::make_unique<LoadedWeights>(model, options, machine_, workers_);
  }

  offload::Machine machine_;
  offload::Workers workers_;
  std::unique_ptr<LoadedWeights> weights_;
};

/// Of one prompt.
struct PrefillTime {
  double seconds = 0;
  BlockTimes blocks;
};

PrefillTime middle(std::vector<PrefillTime> times) {
  const auto at = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::ranges::nth_element(times, at, {}, &PrefillTime::seconds);
  return *at;
}

/// A session whose prompts are random tokens, always the same.
class Prompts {
 public:
  Prompts(const LoadedWeights& weights, const RuntimeOptions& options)
      : runtime_(weights, options), session_(runtime_, options.planned_context, options.planned_cache) {
    std::mt19937 random(1);
    std::uniform_int_distribution<int32_t> any(0,
                                               static_cast<int32_t>(weights.model().config().vocab_size - 1));
    ids_.resize(static_cast<size_t>(options.planned_context));
    std::ranges::generate(ids_, [&] { return any(random); });
    say(runtime_.description());
  }

  /// Tokens of a pass.
  [[nodiscard]] int64_t pass() const { return runtime_.options().max_batch; }

  /// The median of some, after as many as it takes until they get no faster: memory is page-locked in the
  /// background, and rates are learnt.
  PrefillTime measure(int64_t tokens, int64_t repeats) {
    PrefillTime last = once(tokens);
    for (int i = 1; i < kMostWarmUps && last.seconds < kManySeconds; ++i) {
      const double before = std::exchange(last, once(tokens)).seconds;
      if (last.seconds > 0.97 * before) break;
    }
    if (last.seconds >= kManySeconds) return last;
    std::vector<PrefillTime> times;
    for (int64_t i = 0; i < repeats; ++i) times.push_back(once(tokens));
    return middle(std::move(times));
  }

 private:
  PrefillTime once(int64_t tokens) {
    session_.truncate(0);
    const BlockTimes before = runtime_.layer_times().blocks;
    const double seconds =
        seconds_of([&] { session_.prefill(std::span(ids_).first(static_cast<size_t>(tokens))); });
    return {.seconds = seconds, .blocks = runtime_.layer_times().blocks - before};
  }

  Runtime runtime_;
  Session session_;
  std::vector<int32_t> ids_;
};

RuntimeOptions options_for(const PrefillGuard& guard, Prefill prefill, int64_t longest) {
  RuntimeOptions options;
  options.threads = guard.threads > 0 ? guard.threads : offload::probe_machine().cores;
  options.device = Device::kGpu;
  options.prefill = prefill;
  options.planned_context = longest;
  return options;
}

/// [guard.streamed]: with the experts in the GPU's memory, in passes as long as the streamed ones, so that
/// they are read as often.
std::vector<PrefillTime> products_alone(const PrefillGuard& guard, const Model& model, int64_t longest) {
  RuntimeOptions options = options_for(guard, Prefill::kAuto, longest);
  options.max_batch = longest;
  for (int64_t layer = model.config().dense_layers; layer < model.config().layers; ++layer) {
    options.gpu_expert_layers.push_back(layer);
  }
  const Weights weights(model, options);
  Prompts prompts(weights.loaded(), options);
  if (prompts.pass() < longest) {
    throw Error("guard_prefill --tokens",
                fmt::format("GPU memory for all experts and passes of {} tokens", longest),
                fmt::format("passes of {}", prompts.pass()));
  }
  std::vector<PrefillTime> times;
  for (const int64_t tokens : guard.streamed) {
    say(fmt::format("{} tokens, experts in the GPU's memory", tokens));
    times.push_back(prompts.measure(tokens, guard.repeats));
  }
  return times;
}

std::vector<PrefillTime> streamed(const PrefillGuard& guard, const LoadedWeights& weights, int64_t longest) {
  RuntimeOptions options = options_for(guard, Prefill::kStream, longest);
  options.max_batch = longest;  // every expert crosses once
  options.profile = true;       // tells of the copies
  Prompts prompts(weights, options);
  std::vector<PrefillTime> times;
  for (const int64_t tokens : guard.streamed) {
    say(fmt::format("{} tokens, streamed", tokens));
    times.push_back(prompts.measure(tokens, guard.repeats));
  }
  return times;
}

std::string ms(double seconds) {
  return fmt::format("{:.0f} ms", seconds * 1e3);
}

struct StreamFloors {
  double pinned_bytes_per_second = 0;
  std::vector<PrefillTime> products;  // [guard.streamed]
};

void report_streamed(const PrefillGuard& guard, const StreamFloors& floors,
                     const std::vector<PrefillTime>& times, Report& report) {
  const double pinned = floors.pinned_bytes_per_second;
  for (size_t i = 0; i < times.size(); ++i) {
    const int64_t tokens = guard.streamed[i];
    const auto bytes = static_cast<double>(times[i].blocks.copied_bytes);
    const double rate = bytes / (static_cast<double>(times[i].blocks.copying_ns) * 1e-9);
    report.line(fmt::format("stream, {} tokens: rate of copies", tokens),
                fmt::format("{:.1f} GB/s", gb(rate)), fmt::format("pinned {:.1f} GB/s", gb(pinned)),
                rate / pinned, Bar::kAtLeast, 0.92);
    const double copies = bytes / pinned;
    const double products = floors.products[i].seconds;
    report.line(fmt::format("stream, {} tokens: time", tokens), ms(times[i].seconds),
                fmt::format("copies {}, GPU {}", ms(copies), ms(products)),
                times[i].seconds / std::max(copies, products), Bar::kAtMost, 1.12);
  }
}

void guard_ways(const PrefillGuard& guard, const LoadedWeights& weights, int64_t longest, Report& report) {
  std::vector<std::vector<double>> seconds;  // [way][size]
  for (const Prefill way : {Prefill::kCpu, Prefill::kStream, Prefill::kAuto}) {
    Prompts prompts(weights, options_for(guard, way, longest));  // one at a time: each takes what is free
    seconds.emplace_back();
    for (const int64_t tokens : guard.sizes) {
      say(fmt::format("{} tokens, --prefill {}", tokens, prefill_name(way)));
      seconds.back().push_back(prompts.measure(tokens, guard.repeats).seconds);
    }
  }
  for (size_t i = 0; i < guard.sizes.size(); ++i) {
    const double cpu = seconds[0][i];
    const double stream = seconds[1][i];
    report.line(fmt::format("auto, {} tokens", guard.sizes[i]), ms(seconds[2][i]),
                fmt::format("CPU {}, stream {}", ms(cpu), ms(stream)), seconds[2][i] / std::min(cpu, stream),
                Bar::kAtMost, 1.10);
  }
}

}  // namespace

void guard_prefill(const PrefillGuard& guard, Report& report) {
  const auto longest = [](const std::vector<int64_t>& tokens) {
    return tokens.empty() ? 0 : std::ranges::max(tokens);
  };
  const int64_t longest_streamed = longest(guard.streamed);
  const int64_t longest_way = longest(guard.sizes);
  say(fmt::format("making {}", synth::to_text(guard.spec)));
  const Model model = synth::open_model(guard.spec, {.threads = guard.threads});
  StreamFloors floors;
  if (longest_streamed > 0) {
    floors.products = products_alone(guard, model, longest_streamed);
    floors.pinned_bytes_per_second = pinned_copy_bytes_per_second();
  }
  const Weights weights(model, options_for(guard, Prefill::kAuto, std::max(longest_streamed, longest_way)));
  if (longest_streamed > 0) {
    const std::vector<PrefillTime> times = streamed(guard, weights.loaded(), longest_streamed);
    // The better of before and after: a floor that a disturbance slowed would flatter.
    floors.pinned_bytes_per_second = std::max(floors.pinned_bytes_per_second, pinned_copy_bytes_per_second());
    report_streamed(guard, floors, times, report);
  }
  if (longest_way > 0) guard_ways(guard, weights.loaded(), longest_way, report);
}

}  // namespace sluice::bench
