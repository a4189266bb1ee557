// The profile as JSON: every field is required unless it is optional in the header, and none is unknown.
#include <fmt/format.h>

#include <cerrno>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "offload/machine_profile.h"
#include "quant/base/error.h"
#include "quant/base/output_file.h"

namespace sluice::offload {
namespace {

using Json = nlohmann::ordered_json;

/// A JSON object whose keys are asked for one by one; finish() refuses the rest.
class Fields {
 public:
  /// `subject` names the object in errors, and with `separator` and a key its values.
  Fields(const Json& json, std::string subject, std::string_view separator = ".")
      : json_(json), subject_(std::move(subject)), separator_(separator) {
    if (!json.is_object()) {
      throw Error(subject_, "an object", json.type_name());
    }
  }

  [[nodiscard]] std::string subject(std::string_view key) const {
    return fmt::format("{}{}{}", subject_, separator_, key);
  }

  [[nodiscard]] bool has(const char* key) const { return json_.contains(key); }

  const Json& at(const char* key) {
    known_.insert(key);
    if (!json_.contains(key)) {
      throw Error(subject(key), "a value", "none");
    }
    return json_.at(key);
  }

  std::string text(const char* key) {
    const Json& value = at(key);
    if (!value.is_string()) {
      throw Error(subject(key), "a text", value.dump());
    }
    return value.get<std::string>();
  }

  int64_t whole(const char* key) {
    const Json& value = at(key);
    const bool fits =
        value.is_number_unsigned()
            ? value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())
            : value.is_number_integer();
    if (!fits) {
      throw Error(subject(key), "a whole number", value.dump());
    }
    return value.get<int64_t>();
  }

  double number(const char* key) {
    const Json& value = at(key);
    if (!value.is_number()) {
      throw Error(subject(key), "a number", value.dump());
    }
    return value.get<double>();
  }

  void finish() const {
    for (const auto& [key, value] : json_.items()) {
      if (!key.starts_with('_') && !known_.contains(key)) {
        throw Error(subject(key), "no such key", "one");
      }
    }
  }

 private:
  const Json& json_;
  std::string subject_;
  std::string_view separator_;
  std::set<std::string> known_;
};

NodeProfile node_from(const Json& json, const std::string& subject) {
  Fields fields(json, subject);
  const NodeProfile node{.memory_bytes = fields.whole("memory_bytes"),
                         .read_gb_per_s = fields.number("read_gb_per_s")};
  fields.finish();
  return node;
}

CpuProfile cpu_from(const Json& json, const std::string& subject) {
  Fields fields(json, subject);
  CpuProfile cpu{.name = fields.text("name"),
                 .isa = fields.text("isa"),
                 .cores = fields.whole("cores"),
                 .nodes = {},
                 .read_gb_per_s = fields.number("read_gb_per_s"),
                 .int8_gops = fields.number("int8_gops")};
  const Json& nodes = fields.at("nodes");
  if (!nodes.is_array()) {
    throw Error(fields.subject("nodes"), "a list of nodes", nodes.type_name());
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    cpu.nodes.push_back(node_from(nodes[i], fields.subject(fmt::format("nodes[{}]", i))));
  }
  fields.finish();
  return cpu;
}

GpuProfile gpu_from(const Json& json, const std::string& subject) {
  Fields fields(json, subject);
  GpuProfile gpu{.name = fields.text("name"),
                 .memory_bytes = fields.whole("memory_bytes"),
                 .driver_bytes = fields.whole("driver_bytes"),
                 .multiprocessors = fields.whole("multiprocessors"),
                 .read_gb_per_s = fields.number("read_gb_per_s"),
                 .bf16_tflops = fields.number("bf16_tflops"),
                 .expert_tflops = fields.number("expert_tflops"),
                 .int8_tops = fields.number("int8_tops"),
                 .to_gpu_gb_per_s = fields.number("to_gpu_gb_per_s"),
                 .from_gpu_gb_per_s = fields.number("from_gpu_gb_per_s"),
                 .launch_us = fields.number("launch_us"),
                 .handover_us = fields.number("handover_us")};
  fields.finish();
  return gpu;
}

// Three digits are more than a measurement is good for.
double rounded(double value) {
  return value == 0 ? 0 : std::round(value * 1000) / 1000;
}

Json to_value(const CpuProfile& cpu) {
  Json nodes = Json::array();
  for (const NodeProfile& node : cpu.nodes) {
    nodes.push_back({{"memory_bytes", node.memory_bytes}, {"read_gb_per_s", rounded(node.read_gb_per_s)}});
  }
  return {{"name", cpu.name},
          {"isa", cpu.isa},
          {"cores", cpu.cores},
          {"nodes", nodes},
          {"read_gb_per_s", rounded(cpu.read_gb_per_s)},
          {"int8_gops", rounded(cpu.int8_gops)}};
}

Json to_value(const GpuProfile& gpu) {
  return {{"name", gpu.name},
          {"memory_bytes", gpu.memory_bytes},
          {"driver_bytes", gpu.driver_bytes},
          {"multiprocessors", gpu.multiprocessors},
          {"read_gb_per_s", rounded(gpu.read_gb_per_s)},
          {"bf16_tflops", rounded(gpu.bf16_tflops)},
          {"expert_tflops", rounded(gpu.expert_tflops)},
          {"int8_tops", rounded(gpu.int8_tops)},
          {"to_gpu_gb_per_s", rounded(gpu.to_gpu_gb_per_s)},
          {"from_gpu_gb_per_s", rounded(gpu.from_gpu_gb_per_s)},
          {"launch_us", rounded(gpu.launch_us)},
          {"handover_us", rounded(gpu.handover_us)}};
}

}  // namespace

std::string to_json(const MachineProfile& profile) {
  Json json{{"name", profile.name}, {"source", profile.source}, {"cpu", to_value(profile.cpu)}};
  if (profile.gpu.has_value()) {
    json["gpu"] = to_value(*profile.gpu);
  }
  if (profile.disk_gb_per_s.has_value()) {
    json["disk_gb_per_s"] = rounded(*profile.disk_gb_per_s);
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

MachineProfile profile_from_json(const std::string& text, const std::string& source) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::exception& error) {
    throw Error(source, "a machine as JSON", error.what());
  }
  Fields fields(json, source, ": ");
  MachineProfile profile{.name = fields.text("name"),
                         .source = fields.text("source"),
                         .cpu = cpu_from(fields.at("cpu"), source + ": cpu"),
                         .gpu = {},
                         .disk_gb_per_s = {}};
  if (fields.has("gpu")) {
    profile.gpu = gpu_from(fields.at("gpu"), source + ": gpu");
  }
  if (fields.has("disk_gb_per_s")) {
    profile.disk_gb_per_s = fields.number("disk_gb_per_s");
  }
  fields.finish();
  check(profile, source);
  return profile;
}

MachineProfile read_profile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.good() && !file.eof()) {
    throw Error(path.string(), "a readable file", system_error_text(errno));
  }
  return profile_from_json(text, path.string());
}

void write_profile(const MachineProfile& profile, const std::filesystem::path& path) {
  std::error_code failure;
  std::filesystem::create_directories(path.parent_path(), failure);  // the file's own error says more
  OutputFile file(path);
  file.write(to_json(profile));
  file.commit();
}

}  // namespace sluice::offload
