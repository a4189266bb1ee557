// One measurement after the other, each of a few seconds; nothing is stored unless all were made.
#include "engine/cli/tune.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <memory>
#include <optional>
#include <string>

#include <fmt/chrono.h>

#include "engine/backends/gpu.h"
#include "engine/backends/gpu_rates.h"
#include "engine/cli/interrupt.h"
#include "engine/cli/interrupted.h"
#include "engine/cli/ncmoe_table.h"
#include "engine/cli/planning.h"
#include "engine/cli/terminal.h"
#include "engine/cli/tune_layer.h"
#include "kernels_cpu/isa.h"
#include "offload/bandwidth.h"
#include "offload/machine.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

struct TuneOptions {
  PlannedModelOptions model;
  PlanningOptions planning;
  std::string output;  // instead of the cache directory
  bool json = false;

  [[nodiscard]] bool plans() const { return !model.model.embedded() || !model.preset.empty(); }
};

class Tuning {
 public:
  explicit Tuning(const std::stop_token& stop) : stop_(stop), machine_(offload::probe_machine()) {}

  offload::MachineProfile measure() {
    offload::MachineProfile profile{
        .name = machine_.cpu_name,
        .source = fmt::format("sluice tune, {:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))),
        .cpu = measure_cpu(),
        .gpu = measure_gpu([this](std::string_view what) { say(what); }, stop_),
        .disk_gb_per_s = {}};
    stop_if_told();
    if (profile.gpu.has_value()) {
      say("a layer on the GPU");
      measure_gpu_layer(*profile.gpu, stop_);
      stop_if_told();
      profile.name = fmt::format("{} + {}", profile.gpu->name, machine_.cpu_name);
    }
    line_.clear();
    return profile;
  }

  [[nodiscard]] const offload::Machine& machine() const { return machine_; }

 private:
  offload::CpuProfile measure_cpu() {
    const cpu::Isa isa = cpu::chosen_isa();
    say("reading RAM");
    const offload::Bandwidth bandwidth = offload::measure_bandwidth(machine_);
    say("experts on the CPU");
    offload::CpuProfile cpu{.name = machine_.cpu_name,
                            .isa = std::string(cpu::isa_name(isa)),
                            .cores = machine_.cores,
                            .nodes = {},
                            .read_gb_per_s = bandwidth.total_gb_per_s,
                            .int8_gops = measure_expert_gops(machine_, isa, stop_)};
    stop_if_told();
    const double share = std::min(1.0, static_cast<double>(offload::available_memory_bytes()) /
                                           static_cast<double>(std::max<int64_t>(machine_.memory_bytes, 1)));
    for (size_t i = 0; i < machine_.nodes.size(); ++i) {
      if (bandwidth.node_gb_per_s[i] > 0) {  // others hold no experts
        const auto memory = static_cast<double>(machine_.nodes[i].memory_bytes) * share;
        cpu.nodes.push_back({static_cast<int64_t>(memory), bandwidth.node_gb_per_s[i]});
      }
    }
    return cpu;
  }

  void say(std::string_view what) {
    stop_if_told();
    line_.show(fmt::format("measuring: {}", what));
  }

  void stop_if_told() {
    if (stop_.stop_requested()) {
      line_.clear();
      write_all(STDERR_FILENO, "interrupted; nothing was stored\n");
      throw Interrupted();
    }
  }

  const std::stop_token& stop_;
  offload::Machine machine_;
  ProgressLine line_;
};

std::string profile_text(const offload::MachineProfile& profile) {
  const offload::CpuProfile& cpu = profile.cpu;
  std::string text = fmt::format("{}: {} cores, {} kernels, reads {:.1f} GB/s", cpu.name, cpu.cores, cpu.isa,
                                 cpu.read_gb_per_s);
  if (cpu.nodes.size() > 1) {
    for (const offload::NodeProfile& node : cpu.nodes) {
      text +=
          fmt::format("{}{:.1f}", &node == cpu.nodes.data() ? " (nodes alone " : ", ", node.read_gb_per_s);
    }
    text += ")";
  }
  text += fmt::format(", experts {:.0f} Gop/s, {:.1f} GB of memory\n", cpu.int8_gops,
                      static_cast<double>(profile.memory_bytes()) / 1e9);
  if (!profile.gpu.has_value()) {
    return text + fmt::format("no GPU: {}\n", find_gpu().why_not);
  }
  const offload::GpuProfile& gpu = *profile.gpu;
  return text +
         fmt::format(
             "{}: {:.1f} of {:.1f} GB free, reads {:.0f} GB/s, products bf16 {:.0f}, of experts {:.0f} "
             "TFLOPS, "
             "int8 {:.0f} TOPS\n"
             "PCIe: {:.1f} GB/s to the GPU, {:.1f} from it; a launch {:.1f} us, a hand-over {:.1f} us\n",
             gpu.name, static_cast<double>(gpu.memory_bytes - gpu.driver_bytes) / 1e9,
             static_cast<double>(gpu.memory_bytes) / 1e9, gpu.read_gb_per_s, gpu.bf16_tflops,
             gpu.expert_tflops, gpu.int8_tops, gpu.to_gpu_gb_per_s, gpu.from_gpu_gb_per_s, gpu.launch_us,
             gpu.handover_us);
}

std::filesystem::path place_of(const TuneOptions& options, const offload::Machine& machine) {
  if (!options.output.empty()) {
    return options.output;
  }
  const std::filesystem::path path = offload::profile_path(machine, offload::cache_directory());
  if (path.empty()) {
    throw Error("sluice tune", "XDG_CACHE_HOME or HOME, or a file to write with -o", "none of them");
  }
  return path;
}

/// What to start the model with.
std::string recommendation(const TuneOptions& options, const PlanReport& report) {
  const std::string model =
      options.model.preset.empty() ? fmt::format("-m {}", options.model.model.path) : std::string("-m MODEL");
  return fmt::format("\nrecommended:\n  sluice chat {} {}\n", model, flags_of(report.plan));
}

void tune(const TuneOptions& options) {
  Interrupts interrupts;
  const StoppableWork work(interrupts);
  // What is wrong with the model is told before the measurements.
  const std::optional<PlannedModel> model =
      options.plans() ? std::optional(describe_model(options.model)) : std::nullopt;
  Tuning tuning(work.token());
  const std::filesystem::path path = place_of(options, tuning.machine());
  const offload::MachineProfile profile = tuning.measure();
  offload::write_profile(profile, path);
  write_all(STDOUT_FILENO, options.json ? offload::to_json(profile) : profile_text(profile));
  write_all(STDERR_FILENO, fmt::format("stored in {}\n", path.string()));
  if (model.has_value()) {
    const PlanReport report = make_report(*model, profile, options.planning);
    write_all(STDOUT_FILENO, "\n" + to_text(report));
    const std::string table = ncmoe_table(*model, profile, options.planning, report);
    write_all(STDOUT_FILENO, table.empty() ? table : "\n" + table);
    require_fit(report);
    write_all(STDOUT_FILENO, recommendation(options, report));
  }
}

}  // namespace

void add_tune_command(CLI::App& app) {
  CLI::App* const command =
      app.add_subcommand("tune", "Measure this machine for `plan`, and recommend flags for a model");
  const auto options = std::make_shared<TuneOptions>();  // shared because CLI11 copies callbacks
  options->model.add_to(*command);
  options->planning.add_to(*command);
  command->add_option("-o,--output", options->output, "Write the measurements to this file instead")
      ->type_name("FILE");
  command->add_flag("--json", options->json, "The measurements as JSON");
  let_last_value_win(*command);
  command->footer(
      "Takes well under a minute; the machine should have nothing else to do. `sluice plan` uses what was "
      "measured last.\nExample: sluice tune -m MODEL.gguf -c 32768");
  command->callback([options] { tune(*options); });
}

}  // namespace sluice::cli
