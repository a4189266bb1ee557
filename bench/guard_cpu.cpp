// The CPU's bars, each measured afresh: one line per bar with name, measured, floor or rival, ratio, bar,
// `ok` or `short`. Exit code 1 when any is short. `./run guard cpu` runs it.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/attention_speed.h"
#include "bench/floors.h"
#include "bench/layer_speed.h"
#include "bench/panel_speed.h"
#include "bench/report.h"
#include "bench/rival.h"
#include "bench/temporary_file.h"
#include "bench/timing.h"
#include "engine/synth/write_gguf.h"
#include "offload/barrier.h"
#include "offload/machine.h"
#include "offload/thread_places.h"
#include "offload/workers.h"

namespace sluice::bench {
namespace {

using quant::DType;

struct GuardOptions {
  int64_t threads = 0;
  double gib = 1.25;  // beyond any last-level cache here by a gibibyte and more
  int64_t experts = 64;
  int64_t repeats = 5;
  std::string llama_bench;         // path; the rival is not measured without
  std::string directory = "/tmp";  // for its model files
  int64_t rival_experts = 256;
  std::vector<std::string> only;  // names of parts; all when empty
};

std::string gb(double bytes_per_second) {
  return fmt::format("{:.1f} GB/s", bytes_per_second * 1e-9);
}

void guard_gemv(const GuardOptions& options, offload::Workers& workers, Report& report) {
  const auto bytes = static_cast<int64_t>(options.gib * 1024 * 1024 * 1024);
  for (const DType dtype : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_K, DType::kBF16}) {
    const Share share = PanelSpeed(dtype, 7168, bytes, workers).gemv(options.repeats);
    report.line(fmt::format("GEMV {}", quant::dtype_info(dtype).name), gb(share.measured),
                "read " + gb(share.floor), share.ratio(), Bar::kAtLeast, 0.85);
  }
  PanelSpeed nvfp4(DType::kNVFP4, 7168, bytes, workers);
  PanelSpeed q8_0(DType::kQ8_0, 7168, bytes, workers);
  std::vector<Share> shares;
  for (int64_t i = 0; i < options.repeats; ++i) {
    shares.push_back({.measured = nvfp4.weights_per_second(), .floor = q8_0.weights_per_second()});
  }
  const Share share = middle(std::move(shares));
  report.line("GEMV time, NVFP4 over Q8_0", fmt::format("{:.1f} Gw/s", share.measured * 1e-9),
              fmt::format("Q8_0 {:.1f} Gw/s", share.floor * 1e-9), 1.0 / share.ratio(), Bar::kAtMost, 0.60);
}

void guard_layer(const GuardOptions& options, offload::Workers& workers, Report& report) {
  for (const DType dtype : {DType::kNVFP4, DType::kQ8_0}) {
    const Share share = LayerSpeed(dtype, options.experts, workers).one_token(40 * options.repeats);
    report.line(fmt::format("MoE layer, one token, {}", quant::dtype_info(dtype).name), gb(share.measured),
                "read " + gb(share.floor), share.ratio(), Bar::kAtLeast, 0.80);
  }
}

/// What a MoE layer pays for its two forks and joins.
void guard_forks(const GuardOptions& options, offload::Workers& workers, Report& report) {
  std::vector<double> us;
  for (int64_t i = 0; i < 1000 * options.repeats; ++i) {
    us.push_back(1e6 * seconds_of([&] {
                   workers.on_all([](int64_t) {});
                   workers.on_all([](int64_t) {});
                 }));
  }
  const double middle = median(std::move(us));
  report.line(fmt::format("forks and joins, {} threads", workers.threads()), fmt::format("{:.1f} us", middle),
              "of 15 us a layer", middle / 15.0, Bar::kAtMost, 1.0);
}

constexpr int64_t kGemmBytes = int64_t{64} << 20;

std::string gops(double operations_per_second) {
  return fmt::format("{:.0f} Gop/s", operations_per_second * 1e-9);
}

void guard_gemm(const GuardOptions& options, offload::Workers& workers, Report& report) {
  for (const DType dtype : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_K}) {
    PanelSpeed speed(dtype, 7168, kGemmBytes, workers);
    for (const int64_t tokens : {64, 512}) {
      const Share share = speed.gemm(tokens, options.repeats);
      report.line(fmt::format("GEMM {}, {} tokens", quant::dtype_info(dtype).name, tokens),
                  gops(share.measured), "peak " + gops(share.floor), share.ratio(), Bar::kAtLeast, 0.50);
    }
  }
}

/// Operations per second of `loop` on all threads.
double rate_on_all(offload::Workers& workers, double (*loop)()) {
  constexpr int kTimes = 1000;
  std::vector<double> ops(static_cast<size_t>(workers.threads()));
  const double seconds = seconds_of([&] {
    workers.on_all([&](int64_t worker) {
      for (int i = 0; i < kTimes; ++i) {
        ops[static_cast<size_t>(worker)] += loop();
      }
    });
  });
  return std::accumulate(ops.begin(), ops.end(), 0.0) / seconds;
}

/// What is left of the peak when tiles have to be loaded.
Share loaded_tiles(const GuardOptions& options, offload::Workers& workers) {
  std::vector<Share> shares;
  for (int64_t i = 0; i < options.repeats; ++i) {
    shares.push_back({.measured = rate_on_all(workers, loaded_tile_loop),
                      .floor = rate_on_all(workers, [] { return product_loop(cpu::Isa::kAmx); })});
  }
  return middle(std::move(shares));
}

void guard_amx(const GuardOptions& options, offload::Workers& workers, Report& report) {
  if (std::ranges::count(cpu::supported_isas(), cpu::Isa::kAmx) == 0) {
    fmt::print("{:<34} not measured: this CPU has none\n", "GEMM with AMX");
    return;
  }
  const Share loaded = loaded_tiles(options, workers);
  Report::note("AMX, the bare loop with its tiles loaded from L1", gops(loaded.measured),
               "peak " + gops(loaded.floor), loaded.ratio());
  for (const DType dtype : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_K}) {
    PanelSpeed amx(dtype, 7168, kGemmBytes, workers, cpu::Isa::kAmx);
    PanelSpeed vnni(dtype, 7168, kGemmBytes, workers, cpu::Isa::kAvx512Vbmi);
    for (const int64_t tokens : {16, 64, 512}) {
      const Share share = amx.gemm(tokens, options.repeats);
      const Share rival = vnni.gemm(tokens, options.repeats);
      const std::string name = fmt::format("AMX {}, {} tokens", quant::dtype_info(dtype).name, tokens);
      report.line(name, gops(share.measured), "peak " + gops(share.floor), share.ratio(), Bar::kAtLeast,
                  0.35);
      report.line(name, gops(share.measured), "VNNI " + gops(rival.measured), share.measured / rival.measured,
                  Bar::kAtLeast, 1.0);
    }
  }
}

void guard_attention(const GuardOptions& /*options*/, offload::Workers& workers, Report& report) {
  AttentionSpeed speed({.threads = workers.threads(), .context = 32768, .batch = 1, .repeats = 10});
  const std::vector<AttentionCase> cases = speed.measure();
  report.line("attention at 32768, 1 token", fmt::format("sparse {:.2f} ms", cases[0].seconds * 1e3),
              fmt::format("dense {:.2f} ms", cases[1].seconds * 1e3), cases[1].seconds / cases[0].seconds,
              Bar::kAtLeast, 4.0);
}

void guard_rival_type(const GuardOptions& options, const synth::ModelSpec& spec, double decode_bar,
                      int64_t threads, Report& report) {
  const TemporaryFile file(std::filesystem::path(options.directory) /
                           fmt::format("guard-cpu-{}.gguf", getpid()));
  synth::write_gguf(spec, file.path, {});
  const std::filesystem::path sluice =
      std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "sluice";
  const ModelSpeed rival = measure_program(options.llama_bench, "", file.path, threads);
  const ModelSpeed ours = measure_program(sluice, "bench", file.path, threads);
  const auto line = [&](std::string_view what, double mine, double theirs, double bar) {
    report.line(fmt::format("{} {}", what, quant::dtype_info(spec.type).name),
                fmt::format("{:.1f} t/s", mine), fmt::format("llama.cpp {:.1f} t/s", theirs), mine / theirs,
                Bar::kAtLeast, bar);
  };
  line("decode,", ours.generation, rival.generation, decode_bar);
  line("prefill of 512,", ours.prefill, rival.prefill, 3.0);
}

void guard_rival(const GuardOptions& options, offload::Workers& workers, Report& report) {
  if (options.llama_bench.empty()) {
    fmt::print("{:<34} not measured: needs --llama-bench PATH\n", "against llama.cpp");
    return;
  }
  synth::ModelSpec spec{.moe_layers = 1, .type = DType::kQ8_0, .experts = options.rival_experts};
  guard_rival_type(options, spec, 1.25, workers.threads(), report);
  spec.moe_layers = 2;
  spec.type = DType::kNVFP4;
  guard_rival_type(options, spec, 1.35, workers.threads(), report);
}

struct Part {
  std::string_view name;
  void (*measure)(const GuardOptions&, offload::Workers&, Report&);
};
constexpr Part kParts[] = {{"gemv", guard_gemv},  {"layer", guard_layer}, {"forks", guard_forks},
                           {"gemm", guard_gemm},  {"amx", guard_amx},     {"attention", guard_attention},
                           {"rival", guard_rival}};

int64_t guard(const GuardOptions& options) {
  const offload::Machine machine = offload::probe_machine();
  const int64_t threads = options.threads > 0 ? options.threads : machine.cores;
  offload::Workers workers(offload::place_threads(machine, threads));
  const offload::ThreadBinding binding = workers.bind_caller();
  fmt::print("{}, {} threads, {}\n", machine.cpu_name, threads, cpu::isa_name(cpu::chosen_isa()));
  Report::head();
  Report report;
  for (const Part& part : kParts) {
    if (options.only.empty() || std::ranges::count(options.only, part.name) > 0) {
      part.measure(options, workers, report);
    }
  }
  fmt::print("{} short\n", report.bars_short());
  return report.bars_short();
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::GuardOptions options;
  CLI::App app("Measures every bar of the CPU side; exit code 1 when one is short");
  app.add_option("-t,--threads", options.threads, "Threads; 0 = all physical cores");
  app.add_option("--gib", options.gib, "Memory of a GEMV")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--experts", options.experts, "Experts of the MoE layer; eight compute")
      ->check(CLI::Range(16, 256))
      ->capture_default_str();
  app.add_option("--repeats", options.repeats, "Medians are of so many")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--llama-bench", options.llama_bench, "llama.cpp's llama-bench, to compare with")
      ->check(CLI::ExistingFile);
  app.add_option("--directory", options.directory, "For the two model files of that, 15 and 16 GB")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option("--rival-experts", options.rival_experts, "Experts of those models")
      ->check(CLI::Range(8, 256))
      ->capture_default_str();
  std::vector<std::string> parts;
  for (const sluice::bench::Part& part : sluice::bench::kParts) {
    parts.emplace_back(part.name);
  }
  app.add_option("--only", options.only, "Only these parts")->check(CLI::IsMember(parts))->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  try {
    return sluice::bench::guard(options) == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "guard: {}\n", error.what());
    return 1;
  }
}
