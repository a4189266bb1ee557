// Progress lines, and what a stop says.
#include "engine/cli/model_loading.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "engine/cli/interrupted.h"
#include "engine/cli/terminal.h"
#include "engine/load_stopped.h"
#include "engine/memory_need.h"
#include "engine/synth/open_model.h"
#include "offload/machine.h"

namespace sluice::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kGigabyte = 1e9;

/// The generation of random weights, as a line.
class GenerationLine {
 public:
  void show(int64_t done, int64_t total) {
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    const double gigabytes = static_cast<double>(done) / kGigabyte;
    line_.show(fmt::format("{:3.0f} %  {:.2f} of {:.2f} GB generated  {:.2f} GB/s",
                           100.0 * static_cast<double>(done) / static_cast<double>(total), gigabytes,
                           static_cast<double>(total) / kGigabyte, gigabytes / seconds));
  }

 private:
  const Clock::time_point start_ = Clock::now();
  ProgressLine line_;
};

/// The loading of experts, as a bar.
class LoadBar {
 public:
  void show(const offload::LoadProgress& progress) {
    if (Clock::now() - start_ < kPatience) return;
    constexpr int kWidth = 30;
    const double share = static_cast<double>(progress.bytes_done) / static_cast<double>(progress.bytes_total);
    const auto filled = static_cast<size_t>(share * kWidth);
    line_.show(fmt::format("experts [{}{}] {:3.0f} %  {:.1f} of {:.1f} GB  {:.2f} GB/s",
                           std::string(filled, '#'), std::string(kWidth - filled, '.'), 100.0 * share,
                           static_cast<double>(progress.bytes_done) / kGigabyte,
                           static_cast<double>(progress.bytes_total) / kGigabyte, progress.gb_per_s));
  }

 private:
  static constexpr std::chrono::seconds kPatience{2};
  const Clock::time_point start_ = Clock::now();
  ProgressLine line_;
};

/// What `load` returns. `model` is named when it was stopped.
template <typename Load>
auto stoppable(const std::string& model, const Load& load) {
  try {
    return load();  // made in place: a Runtime cannot be moved
  } catch (const LoadStopped&) {
    write_all(STDERR_FILENO, fmt::format("{}: interrupted while it was loaded\n", model));
    throw Interrupted();
  }
}

/// What `load` returns, which sees the progress and the stop in `options`.
template <typename Load>
auto with_progress(const Model& model, RuntimeOptions& options, const std::stop_token& stop,
                   const Load& load) {
  return stoppable(model.path().string(), [&] {
    if (options.expert_memory == ExpertMemory::kMapped && model.expert_source() == nullptr) {
      write_all(STDERR_FILENO,
                mapped_experts_notice(model.weights(), offload::available_memory_bytes()) + "\n");
    }
    spdlog::info("{}: loading the experts", model.path().string());
    LoadBar bar;
    options.load_progress = [&](const offload::LoadProgress& progress) { bar.show(progress); };
    options.load_stop = stop;
    return load();
  });
}

Model make_synthetic_model(const std::string& spec, const std::stop_token& stop) {
  GenerationLine line;
  return synth::open_model(
      synth::parse_model_spec(spec),
      {.threads = 0, .progress = [&](int64_t done, int64_t total) { line.show(done, total); }, .stop = stop});
}

Model open_model(const ModelOptions& options, const std::stop_token& stop) {
  if (options.embedded()) return Model::load(embedded_model_path());
  if (synth::is_model_spec(options.path)) return make_synthetic_model(options.path, stop);
  return Model::load(options.path);
}

}  // namespace

Model load_model(const ModelOptions& options, const std::stop_token& stop) {
  Model model = stoppable(options.path, [&] { return open_model(options, stop); });
  spdlog::info("{}: {}, {} parameters, {}, {:.1f} MB", model.path().string(), model.config().name,
               model.parameters(), model.type_name(), static_cast<double>(model.tensor_bytes()) / 1e6);
  return model;
}

Model load_model(const ModelOptions& options, Interrupts& interrupts) {
  const StoppableWork work(interrupts);
  return load_model(options, work.token());
}

Runtime make_runtime(const Model& model, RuntimeOptions options, const std::stop_token& stop) {
  return with_progress(model, options, stop, [&] { return Runtime(model, options); });
}

Runtime make_runtime(const Model& model, const RuntimeOptions& options, Interrupts& interrupts) {
  const StoppableWork work(interrupts);
  return make_runtime(model, options, work.token());
}

LoadedWeights load_weights(const Model& model, RuntimeOptions options, const std::stop_token& stop) {
  return with_progress(model, options, stop, [&] {
    const offload::Machine machine = offload::probe_machine();
    offload::Workers workers(runtime_places(machine, machine.cores));
    return LoadedWeights(model, options, machine, workers);
  });
}

}  // namespace sluice::cli
