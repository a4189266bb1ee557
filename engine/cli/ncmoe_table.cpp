#include "engine/cli/ncmoe_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <set>

namespace sluice::cli {
namespace {

constexpr int64_t kSteps = 8;

/// From the first layer with experts that the GPU computes to all layers, and `chosen`.
std::set<int64_t> values_of(const ModelConfig& config, const offload::Plan& chosen) {
  const int64_t first = std::max(config.dense_layers, config.layers + 1 - chosen.gpu_layers);
  std::set<int64_t> values;
  if (chosen.gpu_layers == 0 || first >= config.layers) {
    return values;
  }
  for (int64_t step = 0; step <= kSteps; ++step) {
    values.insert(first + (config.layers - first) * step / kSteps);
  }
  if (chosen.cpu_moe_layers().has_value()) {
    values.insert(*chosen.cpu_moe_layers());
  }
  return values;
}

std::string line_of(int64_t value, const PlanReport& report, bool chosen) {
  const offload::DevicePlan& gpu = *report.plan.gpu;
  std::string line = fmt::format("{:>6}{:>10.2f}", value, static_cast<double>(gpu.total()) / 1e9);
  if (!report.plan.fits()) {
    return line + "  does not fit\n";
  }
  line += fmt::format("{:>10.2f}", report.decode.front().tokens_per_second());
  for (const offload::PrefillPrediction& prefill : report.prefill) {
    line += fmt::format("{:>10.0f}", prefill.tokens_per_second());
  }
  return line + (chosen ? "  recommended\n" : "\n");
}

}  // namespace

std::string ncmoe_table(const PlannedModel& model, const offload::MachineProfile& machine,
                        const PlanningOptions& options, const PlanReport& chosen) {
  const std::set<int64_t> values = values_of(model.config, chosen.plan);
  if (values.empty()) {
    return {};
  }
  std::string text = fmt::format("{:>6}{:>10}{:>10}", "-ncmoe", "GPU GB", "decode");
  for (const offload::PrefillPrediction& prefill : chosen.prefill) {
    text += fmt::format("{:>10}", fmt::format("of {}", prefill.tokens));
  }
  text += "  tokens/s\n";
  PlanningOptions with_value = options;
  with_value.placement.cpu_moe = false;
  with_value.placement.overrides.clear();
  for (const int64_t value : values) {
    with_value.placement.cpu_moe_layers = value;
    text += line_of(value, make_report(model, machine, with_value),
                    chosen.plan.fits() && chosen.plan.cpu_moe_layers() == value);
  }
  return text;
}

}  // namespace sluice::cli
