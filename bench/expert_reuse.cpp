// Would experts that are chosen by what recent tokens used be in GPU memory more often than those of whole
// layers (-ncmoe), and what would that gain? Records what every token of a text chooses on the CPU, and tries
// ways to choose with it: expert_reuse [-m MODEL] [-f TEXT] [--machine FILE].
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/expert_replay.h"
#include "engine/perplexity.h"
#include "engine/runtime.h"
#include "offload/machine_profile.h"
#include "quant/base/error.h"

namespace sluice::bench {
namespace {

struct Options {
  std::string model = SLUICE_SOURCE_DIR "/models/tiny.gguf";
  std::string text = SLUICE_SOURCE_DIR "/../shared/models/tiny/golden/heldout.txt";
  std::string machine = SLUICE_SOURCE_DIR "/machines/rtx4090-768gb-ddr5-12ch.json";
  int64_t context = 2048;
  int64_t windows = 16;
  int64_t threads = 0;
  int64_t most = 4;  // as the cache has
  double copy_hits = offload::ResidencyRules().copy_hits;
  std::vector<double> half_lives = {64, 256, 1024, 4096};
};

/// Keeps what tokens choose.
class RouteRecorder : public ForwardObserver {
 public:
  RouteRecorder(RouteTrace& trace, int64_t dense_layers) : trace_(trace), dense_layers_(dense_layers) {}

  /// Tokens from now on are of a window whose position 0 is this token of the trace.
  void begin_window(int64_t first_token) { first_token_ = first_token; }

  void routes(int64_t layer, int64_t first_position, const offload::Routes& routes) override {
    for (int64_t row = 0; row < routes.ids.rows; ++row) {
      const int64_t token = first_token_ + first_position + row;
      std::ranges::copy(routes.ids.row(row),
                        trace_.ids.begin() + (token * trace_.layers + layer - dense_layers_) * trace_.used);
    }
  }

 private:
  RouteTrace& trace_;
  int64_t dense_layers_;
  int64_t first_token_ = 0;
};

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file || text.empty()) throw Error(path, "a text that can be read", "none (-f names another)");
  return text;
}

PerplexityWindows cut_text(const Model& model, const Options& options) {
  const auto bos = model.tokenizer().data().bos;
  if (!bos.has_value()) throw Error(options.model, "a tokenizer with a BOS token", "none");
  return PerplexityWindows(model.tokenizer().encode(read_text(options.text), SpecialTokens::kAsText), *bos,
                           options.context, ScoreProtocol::kAll, options.text);
}

/// Of windows from all over the text, in its order.
RouteTrace record(const Model& model, const Options& options) {
  const ModelConfig& config = model.config();
  const PerplexityWindows windows = cut_text(model, options);
  const int64_t count = std::min(options.windows, windows.count());
  RouteTrace trace{.layers = config.layers - config.dense_layers,
                   .experts = config.router.experts,
                   .used = config.router.experts_used};
  trace.ids.resize(static_cast<size_t>(count * options.context * trace.choices()), -1);
  RouteRecorder recorder(trace, config.dense_layers);
  Runtime runtime(model, {.threads = options.threads});
  const auto cache = runtime.make_cache(options.context, CacheType::kBF16);
  for (int64_t i = 0; i < count; ++i) {
    const std::vector<int32_t> ids = windows.window(i * windows.count() / count).ids;
    recorder.begin_window(i * options.context);
    const auto batch = static_cast<size_t>(runtime.options().max_batch);
    for (size_t at = 0; at < ids.size(); at += batch) {
      runtime.forward({.ids = std::span(ids).subspan(at, std::min(batch, ids.size() - at)),
                       .first_position = static_cast<int64_t>(at),
                       .logits = Logits::kNone,
                       .observer = &recorder},
                      *cache);
    }
  }
  fmt::print("{}: {} windows of {} tokens, of {} in {}\n", runtime.description(), count, options.context,
             windows.count(), options.text);
  return trace;
}

/// The time of reading a token's experts, in units of reading all of them from RAM, as in docs/plan.md: RAM
/// at 0.9 of its rate, GPU memory and PCIe at theirs. Launches that a layer without hand-over needs and the
/// hand-over that it saves are about the same there, and are left out of both.
class ExpertTime {
 public:
  explicit ExpertTime(const offload::MachineProfile& machine)
      : gpu_(kRamShare * machine.cpu.read_gb_per_s / machine.gpu->read_gb_per_s),
        copy_(kRamShare * machine.cpu.read_gb_per_s / machine.gpu->to_gpu_gb_per_s) {}

  /// Layers are one after the other: CPU and GPU take turns.
  [[nodiscard]] double whole_layers(double share) const { return 1 - share + share * gpu_; }
  /// CPU and GPU compute a layer at the same time; copies take memory's speed from the CPU (`copied`: experts
  /// over a token's choices), and are never waited for.
  [[nodiscard]] double behind(const Residence& residence, double copied) const {
    const auto used = static_cast<double>(residence.layers_with.size() - 1);
    double sum = 0;
    for (size_t i = 0; i < residence.layers_with.size(); ++i) {
      const double hits = static_cast<double>(i) / used;
      sum += residence.layers_with[i] * std::max(1 - hits + copied, hits * gpu_);
    }
    return sum;
  }
  /// The same when nothing hides the copies.
  [[nodiscard]] double waited_for(const Residence& residence, double copied) const {
    return behind(residence, 0) + copied * copy_;
  }

 private:
  static constexpr double kRamShare = 0.9;  // docs/plan.md

  double gpu_;
  double copy_;
};

void print_row(const std::string& way, const Residence& residence, const RouteTrace& trace,
               const ExpertTime& time) {
  const double copied = residence.replacements / static_cast<double>(trace.choices());
  fmt::print("  {:<32} {:7.2f} % {:10.4f} {:9.3f} {:9.3f}\n", way, 100 * residence.hit_rate,
             residence.replacements, time.behind(residence, copied), time.waited_for(residence, copied));
}

void print_share(int64_t percent, const RouteTrace& trace, const ExpertTime& time, const Options& options) {
  const int64_t slots = trace.layers * trace.experts * percent / 100;
  const double share = static_cast<double>(slots) / static_cast<double>(trace.layers * trace.experts);
  fmt::print("\n{} slots, {} % of the experts                hits copies/token    behind    waited\n", slots,
             percent);
  fmt::print("  {:<32} {:7.2f} % {:10.4f} {:9.3f} {:9.3f}\n", "whole layers", 100 * share, 0.0,
             time.whole_layers(share), time.whole_layers(share));
  print_row("as many of every layer", replay_spread(trace, slots), trace, time);
  print_row("static, by hindsight", replay_static(trace, slots, LearnFrom::kSecondHalf), trace, time);
  print_row("static, of the first half", replay_static(trace, slots, LearnFrom::kFirstHalf), trace, time);
  print_row("least recently used goes", replay_least_recent(trace, slots), trace, time);
  for (const double half_life : options.half_lives) {
    const offload::ResidencyRules rules{.half_life = half_life, .copy_hits = options.copy_hits};
    print_row(fmt::format("decayed counts, half-life {}", half_life),
              replay_residency(trace, slots, rules, options.most), trace, time);
  }
}

/// Random choices of DeepSeek-V3.2's shape.
RouteTrace random_trace() {
  RouteTrace trace{.layers = 58, .experts = 256, .used = 8};
  std::mt19937_64 random(1);
  std::vector<int32_t> some;
  for (int64_t row = 0; row < 1000 * trace.layers; ++row) {
    some.clear();
    while (static_cast<int64_t>(some.size()) < trace.used) {
      const auto expert = static_cast<int32_t>(random() % static_cast<uint64_t>(trace.experts));
      if (std::ranges::find(some, expert) == some.end()) some.push_back(expert);
    }
    trace.ids.insert(trace.ids.end(), some.begin(), some.end());
  }
  return trace;
}

void run(Options options) {
  const offload::MachineProfile machine = offload::read_profile(options.machine);
  if (!machine.gpu.has_value()) throw Error(options.machine, "a machine with a GPU", "none");
  const ExpertTime time(machine);
  const Model model = Model::load(options.model);
  const RouteTrace trace = record(model, options);
  fmt::print(
      "{} MoE layers of {} experts, {} used; all figures are of the second half of {} tokens; at most {} "
      "replacements a token, for {} hits\n{}: times are of a token's experts, 1 = all read from RAM; copies "
      "behind the token's work, or waited for\n",
      trace.layers, trace.experts, trace.used, trace.tokens(), options.most, options.copy_hits, machine.name);
  for (const int64_t percent : {10, 25, 50, 75}) print_share(percent, trace, time, options);
  const offload::ResidencyRules rules{.half_life = options.half_lives.back(), .copy_hits = options.copy_hits};
  fmt::print("\nthe policy takes {:.1f} us a token here, {:.1f} with 58 layers of 256 experts, 8 used\n",
             residency_us(trace, rules, options.most), residency_us(random_trace(), rules, options.most));
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  CLI::App app("How often experts would be in GPU memory, by the way they are chosen");
  sluice::bench::Options options;
  app.add_option("-m", options.model, "GGUF file (default: the embedded model)");
  app.add_option("-f", options.text, "Text (default: the held-out text beside the source tree)");
  app.add_option("--machine", options.machine, "A machine's file (default: the RTX 4090 of machines/)");
  app.add_option("-c", options.context, "Tokens of a window (default 2048)")->check(CLI::PositiveNumber);
  app.add_option("--windows", options.windows, "Windows, from all over the text (default 16)")
      ->check(CLI::PositiveNumber);
  app.add_option("-t", options.threads, "0 = all physical cores (default 0)");
  app.add_option("--most", options.most, "Replacements a token, at most (default 4)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--copy-hits", options.copy_hits, "Hits that a copy has to gain (default 2)");
  app.add_option("--half-life", options.half_lives, "In tokens (default 64,256,1024,4096)")->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  try {
    sluice::bench::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "expert_reuse: error: {}\n", error.what());
    return 1;
  }
  return 0;
}
