#include "engine/cli/plan_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <optional>

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;
using offload::DecodePrediction;
using offload::DevicePlan;
using offload::Plan;
using offload::PlannedBytes;
using offload::PrefillPrediction;
using offload::Remedy;

double gigabytes(int64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

std::string device_table(const DevicePlan& device) {
  std::string text = fmt::format("{:<36}{:>10}\n", device.name, "GB");
  for (const PlannedBytes& part : device.parts) {
    if (part.bytes > 0) {
      text += fmt::format("  {:<34}{:>10.2f}\n", part.what, gigabytes(part.bytes));
    }
  }
  const int64_t free = device.free();
  return text + fmt::format("  {:<34}{:>10.2f} of {:.2f}, {:.2f} {}\n", "total", gigabytes(device.total()),
                            gigabytes(device.available), gigabytes(free < 0 ? -free : free),
                            free < 0 ? "too much" : "free");
}

std::string node_lines(const PlanReport& report) {
  if (report.plan.node_bytes.size() < 2) {
    return {};
  }
  std::string text;
  for (size_t i = 0; i < report.plan.node_bytes.size(); ++i) {
    text += fmt::format("  {:<34}{:>10.2f} of {:.2f}\n", fmt::format("of these on node {}", i),
                        gigabytes(report.plan.node_bytes[i]),
                        gigabytes(report.machine.cpu.nodes[i].memory_bytes));
  }
  return text;
}

std::string decode_line(const DecodePrediction& p) {
  return fmt::format(
      "decode   {:>8.2f} tokens/s after {:>6} tokens: {:.1f} ms, of these GPU {:.1f}, RAM {:.1f}, hand-over "
      "{:.1f}; limit {}\n",
      p.tokens_per_second(), p.depth, p.us / 1e3, p.gpu_us / 1e3, p.ram_us / 1e3, p.handover_us / 1e3,
      limit_name(p.limit));
}

/// "shared (CPU 41 %, streamed 59 %)".
std::string way_text(const PrefillPrediction& p) {
  std::string text(prefill_way_name(p.way()));
  if (p.way() == offload::PrefillWay::kShared) {
    text += fmt::format(" (CPU {:.0f} %, streamed {:.0f} %)", 100 * p.cpu_share, 100 * (1 - p.cpu_share));
  }
  return text;
}

std::string prefill_line(const PrefillPrediction& p) {
  return fmt::format(
      "prefill  {:>8.0f} tokens/s of    {:>6} tokens: {:.1f} s, GPU {:.1f}, PCIe {:.1f}, CPU {:.1f}; experts "
      "{}; "
      "limit {}\n",
      p.tokens_per_second(), p.tokens, p.us / 1e6, p.gpu_us / 1e6, p.pcie_us / 1e6, p.cpu_us / 1e6,
      way_text(p), limit_name(p.limit));
}

std::string_view remedy_flag(Remedy::Kind kind) {
  switch (kind) {
    case Remedy::Kind::kContext:
      return "-c";
    case Remedy::Kind::kBatch:
      return "-b";
    case Remedy::Kind::kGpuLayers:
      return "-ngl";
    case Remedy::Kind::kCpuMoeLayers:
      return "-ncmoe";
  }
  return {};
}

/// Of all bytes of the model from the disk, where its rate is known.
std::optional<double> load_seconds(const PlanReport& report) {
  if (!report.machine.disk_gb_per_s.has_value()) {
    return {};
  }
  return gigabytes(report.model_bytes) / *report.machine.disk_gb_per_s;
}

Json device_json(const DevicePlan& device) {
  Json parts = Json::array();
  for (const PlannedBytes& part : device.parts) {
    parts.push_back({{"what", part.what}, {"bytes", part.bytes}});
  }
  return {{"name", device.name},
          {"parts", parts},
          {"bytes", device.total()},
          {"available", device.available},
          {"free", device.free()}};
}

Json decode_json(const DecodePrediction& p) {
  return {{"depth", p.depth},
          {"tokens_per_s", p.tokens_per_second()},
          {"us", p.us},
          {"gpu_us", p.gpu_us},
          {"ram_us", p.ram_us},
          {"handover_us", p.handover_us},
          {"limit", limit_name(p.limit)}};
}

Json prefill_json(const PrefillPrediction& p) {
  return {{"tokens", p.tokens},
          {"tokens_per_s", p.tokens_per_second()},
          {"us", p.us},
          {"gpu_us", p.gpu_us},
          {"pcie_us", p.pcie_us},
          {"cpu_us", p.cpu_us},
          {"experts", prefill_way_name(p.way())},
          {"cpu_share", p.cpu_share},
          {"limit", limit_name(p.limit)}};
}

Json layers_json(const Plan& plan) {
  Json layers = Json::array();
  for (const offload::LayerPlace& place : plan.layers) {
    layers.push_back({{"gpu", place.on_gpu}, {"gpu_experts", place.experts_on_gpu}});
  }
  return layers;
}

}  // namespace

std::string flags_of(const Plan& plan) {
  std::string flags = fmt::format("-c {} -ub {} -ngl {}", plan.context, plan.tile_tokens, plan.gpu_layers);
  if (plan.gpu_layers > 0 && plan.cpu_moe_layers().has_value()) {
    flags += fmt::format(" -ncmoe {}", *plan.cpu_moe_layers());
  }
  return flags;
}

std::string remedies_text(const Plan& plan) {
  std::vector<std::string> words;
  for (const Remedy& remedy : plan.remedies) {
    words.push_back(fmt::format("{} {}", remedy_flag(remedy.kind), remedy.value));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

std::string to_text(const PlanReport& report) {
  const Plan& plan = report.plan;
  std::string text =
      fmt::format("model    {}\nmachine  {} ({})\nplan     {}, passes of {} tokens\n\n", report.model,
                  report.machine.name, report.machine.source, flags_of(plan), plan.pass_tokens);
  if (plan.gpu.has_value()) {
    text += device_table(*plan.gpu) + "\n";
  }
  text += device_table(plan.ram) + node_lines(report) + "\n";
  for (const DecodePrediction& prediction : report.decode) {
    text += decode_line(prediction);
  }
  for (const PrefillPrediction& prediction : report.prefill) {
    text += prefill_line(prediction);
  }
  if (const std::optional<double> seconds = load_seconds(report)) {
    text += fmt::format("loading  {:>8.0f} s\n", *seconds);
  }
  return text;
}

std::string to_json(const PlanReport& report) {
  const Plan& plan = report.plan;
  Json json{
      {"model", report.model},           {"machine", report.machine.name}, {"source", report.machine.source},
      {"flags", flags_of(plan)},         {"context", plan.context},        {"pass_tokens", plan.pass_tokens},
      {"tile_tokens", plan.tile_tokens}, {"gpu_layers", plan.gpu_layers},  {"fits", plan.fits()}};
  if (plan.gpu.has_value()) {
    json["gpu"] = device_json(*plan.gpu);
  }
  json["ram"] = device_json(plan.ram);
  json["ram"]["nodes"] = plan.node_bytes;
  json["layers"] = layers_json(plan);
  for (const DecodePrediction& prediction : report.decode) {
    json["decode"].push_back(decode_json(prediction));
  }
  for (const PrefillPrediction& prediction : report.prefill) {
    json["prefill"].push_back(prefill_json(prediction));
  }
  if (const std::optional<double> seconds = load_seconds(report)) {
    json["load_s"] = *seconds;
  }
  json["remedies"] = Json::array();
  for (const Remedy& remedy : plan.remedies) {
    json["remedies"].push_back({{"flag", remedy_flag(remedy.kind)}, {"value", remedy.value}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace sluice::cli
