// The bars of prompts on a GPU with the experts in memory, each measured afresh beside its floor: a line per
// bar as in guard_cpu.cpp. Exit code 1 when a bar is short, 2 when there is no GPU. `./run guard prefill`
// runs it; docs/benchmarks.md says how.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "bench/prefill_speed.h"
#include "bench/report.h"
#include "bench/rival.h"
#include "bench/temporary_file.h"
#include "engine/synth/write_gguf.h"
#include "kernels_cuda/base/device.h"
#include "offload/machine.h"

namespace sluice::bench {
namespace {

struct RivalOptions {
  std::string llama_bench;         // path; the rival is not measured without
  std::string sluice;              // path; empty = beside this program's folder
  std::string directory = "/tmp";  // for the model's file
  int64_t moe = 4;
  std::string type = "q8_0";
  std::vector<int64_t> ubatches{512, 2048, 4096};  // of llama.cpp; the first is its default
  std::string flags = "-lm none";                  // without, its weights would not be in page-locked memory
};
/// Runs of `sluice bench` against the rival, at least: the first ones are still being learned from.
constexpr int64_t kLeastOwnRuns = 8;

struct GuardOptions {
  PrefillGuard prefill;
  int64_t moe = 4;
  std::string type = "nvfp4";
  std::optional<int64_t> experts;
  RivalOptions rival;
};

synth::ModelSpec spec_of(int64_t moe, const std::string& type, std::optional<int64_t> experts) {
  std::string text = fmt::format("synth:deepseek-v3.2,dense=1,moe={},type={}", moe, type);
  if (experts.has_value()) text += fmt::format(",experts={}", *experts);
  return synth::parse_model_spec(text);
}

/// A prompt's length, and what to reach against llama.cpp: at its default -ub, and at its best.
struct RivalBar {
  int64_t prompt;
  double of_default;
  double of_best;
};
constexpr RivalBar kRivalBars[] = {{512, 1.3, 1.3}, {2048, 4, 1.5}, {16384, 20, 2}};

/// The fastest row of a prompt, at `ubatch` or, without, at any.
double speed_of(const std::vector<PromptSpeed>& rows, int64_t prompt, std::optional<int64_t> ubatch) {
  double best = 0;
  for (const PromptSpeed& row : rows) {
    if (row.prompt == prompt && (!ubatch.has_value() || row.ubatch == *ubatch)) {
      best = std::max(best, row.tokens_per_second);
    }
  }
  return best;
}

void guard_rival(const GuardOptions& options, Report& report) {
  const RivalOptions& rival = options.rival;
  if (rival.llama_bench.empty()) {
    fmt::print("{:<44} not measured: needs --llama-bench PATH\n", "against llama.cpp");
    return;
  }
  const std::filesystem::path sluice =
      rival.sluice.empty()
          ? std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "sluice"
          : std::filesystem::path(rival.sluice);
  const TemporaryFile file(std::filesystem::path(rival.directory) /
                           fmt::format("guard-prefill-{}.gguf", getpid()));
  fmt::print(stderr, "guard_prefill: writing {}\n", file.path.string());
  synth::write_gguf(spec_of(rival.moe, rival.type, options.experts), file.path, {});
  const int64_t threads =
      options.prefill.threads > 0 ? options.prefill.threads : offload::probe_machine().cores;
  fmt::print(stderr, "guard_prefill: sluice bench\n");
  // The longest first, and some runs: then memory is page-locked as the rival's is from the start, and the
  // division between CPU and GPU is learned.
  const auto ours = measure_prompts(sluice, "bench", file.path,
                                    fmt::format("-p 16384,2048,512 -r {} -t {} -cmoe",
                                                std::max(kLeastOwnRuns, options.prefill.repeats), threads));
  fmt::print(stderr, "guard_prefill: llama-bench\n");
  const auto theirs = measure_prompts(
      rival.llama_bench, "", file.path,
      fmt::format("-p 512,2048,16384 -r {} -t {} -ngl 99 -ncmoe 99 {} -b 16384 -ub {}",
                  options.prefill.repeats, threads, rival.flags, fmt::join(rival.ubatches, ",")));
  for (const RivalBar& bar : kRivalBars) {
    const double mine = speed_of(ours, bar.prompt, {});
    const auto line = [&](const char* ubatch, double other, double least) {
      report.line(fmt::format("prefill of {}, llama.cpp at its {} -ub", bar.prompt, ubatch),
                  fmt::format("{:.0f} t/s", mine), fmt::format("llama.cpp {:.0f} t/s", other), mine / other,
                  Bar::kAtLeast, least);
    };
    line("default", speed_of(theirs, bar.prompt, rival.ubatches.front()), bar.of_default);
    line("best", speed_of(theirs, bar.prompt, {}), bar.of_best);
  }
}

int guard(GuardOptions options) {
  if (cuda::device_count() == 0) {
    fmt::print(stderr, "guard_prefill: no GPU: {}\n", cuda::why_no_device());
    return 2;
  }
  options.prefill.spec = spec_of(options.moe, options.type, options.experts);
  fmt::print("{}, {}, {}\n", cuda::device_properties(0).name, offload::probe_machine().cpu_name,
             synth::to_text(options.prefill.spec));
  Report::head();
  Report report;
  if (!options.prefill.streamed.empty() || !options.prefill.sizes.empty()) {
    guard_prefill(options.prefill, report);
  }
  guard_rival(options, report);
  fmt::print("{} short\n", report.bars_short());
  return report.bars_short() == 0 ? 0 : 1;
}

void add_options(CLI::App& app, GuardOptions& options) {
  app.add_option("--moe", options.moe, "MoE layers of the model in memory")
      ->check(CLI::Range(1, 58))
      ->capture_default_str();
  app.add_option("--type", options.type, "Type of its experts")->capture_default_str();
  app.add_option("--experts", options.experts, "Experts of a layer; without, the preset's 256");
  app.add_option("--tokens", options.prefill.streamed, "Prompts that are streamed; 0 = none")
      ->delimiter(',')
      ->default_str("8192,16384");
  app.add_option("--sizes", options.prefill.sizes, "Prompts to compare CPU, stream and auto at; 0 = none")
      ->delimiter(',')
      ->default_str("8,32,128,512,2048,8192");
  app.add_option("--repeats", options.prefill.repeats, "Medians are of so many")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("-t,--threads", options.prefill.threads, "Threads; 0 = all physical cores");
  RivalOptions& rival = options.rival;
  app.add_option("--llama-bench", rival.llama_bench, "llama.cpp's llama-bench with CUDA, to compare with")
      ->check(CLI::ExistingFile);
  app.add_option("--sluice", rival.sluice, "sluice, for that; without, of the same build")
      ->check(CLI::ExistingFile);
  app.add_option("--directory", rival.directory, "For that model's file, of some 12 GB a layer in Q8_0")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option("--rival-moe", rival.moe, "MoE layers of that model")->capture_default_str();
  app.add_option("--rival-type", rival.type, "Type of its experts")->capture_default_str();
  app.add_option("--rival-flags", rival.flags, "What makes it load into page-locked memory; older: -mmp 0")
      ->capture_default_str();
  app.add_option("--rival-ubatch", rival.ubatches, "-ub of llama.cpp; the first counts as its default")
      ->delimiter(',')
      ->default_str("512,2048,4096");
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::GuardOptions options;
  options.prefill.streamed = {8192, 16384};
  options.prefill.sizes = {8, 32, 128, 512, 2048, 8192};
  CLI::App app("Measures every bar of prompts on a GPU; exit code 1 when one is short");
  sluice::bench::add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  std::erase(options.prefill.streamed, 0);
  std::erase(options.prefill.sizes, 0);
  try {
    return sluice::bench::guard(std::move(options));
  } catch (const std::exception& error) {
    fmt::print(stderr, "guard_prefill: {}\n", error.what());
    return 1;
  }
}
