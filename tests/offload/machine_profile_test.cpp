// A profile survives its JSON; whatever is wrong with one is named with file and key.
#include "offload/machine_profile.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "support/error_text.h"
#include "support/temporary_directory.h"

namespace sluice::offload {
namespace {

using Json = nlohmann::json;

MachineProfile example() {
  return {.name = "a machine",
          .source = "made up",
          .cpu = {.name = "CPU",
                  .isa = "avx2",
                  .cores = 24,
                  .nodes = {{int64_t{256} << 30, 150.5}, {int64_t{128} << 30, 75.25}},
                  .read_gb_per_s = 225,
                  .int8_gops = 4000},
          .gpu = GpuProfile{.name = "GPU",
                            .memory_bytes = int64_t{24} << 30,
                            .driver_bytes = int64_t{400} << 20,
                            .multiprocessors = 128,
                            .read_gb_per_s = 900,
                            .bf16_tflops = 140,
                            .expert_tflops = 90,
                            .int8_tops = 300,
                            .to_gpu_gb_per_s = 25,
                            .from_gpu_gb_per_s = 24,
                            .launch_us = 2.5,
                            .handover_us = 12},
          .disk_gb_per_s = 6.5};
}

/// The text of the error that the example gives once `damage` was done to it.
std::string error_of(const std::function<void(Json&)>& damage) {
  Json json = Json::parse(to_json(example()));
  damage(json);
  return testing::error_text([&] { static_cast<void>(profile_from_json(json.dump(), "m.json")); });
}

TEST(MachineProfile, SurvivesItsJson) {
  const std::string text = to_json(example());
  const MachineProfile read = profile_from_json(text, "text");
  EXPECT_EQ(to_json(read), text);
  EXPECT_EQ(read.memory_bytes(), int64_t{384} << 30);
  EXPECT_EQ(read.cpu.nodes[1].read_gb_per_s, 75.25);
  EXPECT_EQ(read.gpu->launch_us, 2.5);
  EXPECT_EQ(read.disk_gb_per_s, 6.5);

  MachineProfile plain = example();
  plain.gpu.reset();
  plain.disk_gb_per_s.reset();
  const MachineProfile back = profile_from_json(to_json(plain), "text");
  EXPECT_FALSE(back.gpu.has_value());
  EXPECT_FALSE(back.disk_gb_per_s.has_value());
}

TEST(MachineProfile, RemarksAreAllowedAndUnknownKeysAreNot) {
  EXPECT_EQ(error_of([](Json& j) { j["_where"] = "anywhere"; }), "no error");
  EXPECT_EQ(error_of([](Json& j) { j["gpu"]["_why"] = {1, 2}; }), "no error");
  EXPECT_EQ(error_of([](Json& j) { j["speed"] = 1; }), "m.json: speed: expected no such key, found one");
  EXPECT_EQ(error_of([](Json& j) { j["gpu"]["tflops"] = 1; }),
            "m.json: gpu.tflops: expected no such key, found one");
}

TEST(MachineProfile, EveryFieldIsRequiredAndHasItsType) {
  const Json whole = Json::parse(to_json(example()));
  for (const char* const part : {"cpu", "gpu"}) {
    for (const auto& [key, value] : whole.at(part).items()) {
      const std::string path = std::string("m.json: ") + part + "." + key;
      EXPECT_EQ(error_of([&](Json& j) { j[part].erase(key); }), path + ": expected a value, found none");
      const std::string wrong = error_of([&](Json& j) { j[part][key] = true; });
      EXPECT_TRUE(wrong.starts_with(path + ": expected ")) << wrong;
    }
  }
  EXPECT_EQ(error_of([](Json& j) { j["cpu"] = "fast"; }), "m.json: cpu: expected an object, found string");
  EXPECT_EQ(error_of([](Json& j) { j["cpu"]["nodes"][1] = 3; }),
            "m.json: cpu.nodes[1]: expected an object, found number");
}

TEST(MachineProfile, FiguresHaveTheirRanges) {
  EXPECT_EQ(error_of([](Json& j) { j["gpu"]["read_gb_per_s"] = 0; }),
            "m.json: gpu.read_gb_per_s: expected a number above 0, at most 1000000, found 0");
  EXPECT_EQ(error_of([](Json& j) { j["cpu"]["nodes"][0]["memory_bytes"] = -5; }),
            "m.json: cpu.nodes[0].memory_bytes: expected 1 to 70368744177664, found -5");
  EXPECT_EQ(error_of([](Json& j) { j["cpu"]["nodes"] = Json::array(); }),
            "m.json: cpu.nodes: expected 1 to 64, found 0");
  EXPECT_EQ(error_of([](Json& j) { j["cpu"]["cores"] = 2.5; }),
            "m.json: cpu.cores: expected a whole number, found 2.5");
  EXPECT_EQ(error_of([](Json& j) { j["cpu"]["cores"] = 18446744073709551615U; }),
            "m.json: cpu.cores: expected a whole number, found 18446744073709551615");
  EXPECT_EQ(error_of([](Json& j) { j["gpu"]["driver_bytes"] = int64_t{25} << 30; }),
            "m.json: gpu.driver_bytes: expected 0 to 25769803776, found 26843545600");
  EXPECT_EQ(error_of([](Json& j) { j["disk_gb_per_s"] = -1; }),
            "m.json: disk_gb_per_s: expected a number above 0, at most 1000000, found -1");
}

TEST(MachineProfile, FilesThatAreNoneAreNamed) {
  const testing::TemporaryDirectory directory;
  const std::filesystem::path path = directory / "deep/machine.json";
  EXPECT_NE(testing::error_text([&] { static_cast<void>(read_profile(path)); }).find("machine.json"),
            std::string::npos);
  write_profile(example(), path);
  EXPECT_EQ(to_json(read_profile(path)), to_json(example()));
  for (const char* const text : {"", "{", "[]", "{\"name\": 1}", "\xff\xfe", "nan"}) {
    std::ofstream(path) << text;
    const std::string error = testing::error_text([&] { static_cast<void>(read_profile(path)); });
    EXPECT_TRUE(error.starts_with(path.string() + ":")) << error;
  }
}

TEST(MachineProfile, PathsTellMachinesApart) {
  Machine machine = machine_from_synthetic("numa:2 core:4 pu:2");
  const std::filesystem::path one = profile_path(machine, "/cache");
  EXPECT_EQ(one.parent_path(), "/cache");
  EXPECT_EQ(profile_path(machine, "/cache"), one);
  machine.memory_bytes += 1 << 20;
  machine.nodes[0].memory_bytes += 1 << 20;
  EXPECT_EQ(profile_path(machine, "/cache"), one) << "memory may grow";
  machine.gpus.push_back({.name = "another", .pci_address = "0000:01:00.0", .node = 0});
  EXPECT_NE(profile_path(machine, "/cache"), one);
  EXPECT_EQ(profile_path(machine, ""), "");
}

}  // namespace
}  // namespace sluice::offload
