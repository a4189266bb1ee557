// `sluice plan` for machines that are not here.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support/places.h"
#include "support/run_program.h"
#include "support/temporary_directory.h"

namespace sluice::testing {
namespace {

using Json = nlohmann::json;

constexpr const char* kMachines[] = {"rtx-pro-6000-epyc-9374f", "rtx3090-512gb-ddr4-8ch",
                                     "rtx4090-768gb-ddr5-12ch", "rtx5090-two-sockets"};

Arguments with(Arguments first, const Arguments& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

Json planned(const Arguments& more) {
  const ProgramResult result = run_sluice(with({"plan", "--json"}, more));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return Json::parse(result.out);
}

TEST(PlanCommand, PlansTheRealModelForEveryMachineThatComesWithIt) {
  for (const char* const machine : kMachines) {
    const Json plan =
        planned({"--model-preset", "deepseek-v3.2", "--type", "nvfp4", "--machine", machine, "-c", "32768"});
    EXPECT_EQ(plan.at("fits"), true) << machine;
    for (const char* const device : {"gpu", "ram"}) {
      int64_t bytes = 0;
      for (const Json& part : plan.at(device).at("parts")) bytes += part.at("bytes").get<int64_t>();
      EXPECT_EQ(plan.at(device).at("bytes"), bytes);
      EXPECT_LE(bytes, plan.at(device).at("available").get<int64_t>());
    }
    EXPECT_EQ(plan.at("layers").size(), 61);
    EXPECT_EQ(plan.at("decode").size(), 2);
    EXPECT_EQ(plan.at("prefill").size(), 3);
    for (const char* const what : {"decode", "prefill"}) {
      for (const Json& line : plan.at(what)) EXPECT_GT(line.at("tokens_per_s").get<double>(), 1) << machine;
    }
  }
}

// docs/plan.md has the figures and what they rest on; llama.cpp was measured there with 10.9 and 42.
TEST(PlanCommand, ThePublishedCase) {
  const Json plan = planned({"--model-preset", "deepseek-v3.2", "--type", "q8_0", "--machine",
                             "rtx-pro-6000-epyc-9374f", "-c", "4096", "-cmoe"});
  EXPECT_GT(plan.at("decode").at(0).at("tokens_per_s"), 10.9);
  EXPECT_LT(plan.at("decode").at(0).at("tokens_per_s"), 21.2) << "RAM's peak rate allows no more";
  EXPECT_EQ(plan.at("decode").at(0).at("limit"), "RAM");
  EXPECT_GT(plan.at("prefill").at(0).at("tokens_per_s"), 42);
}

// docs/plan.md has what was measured there. The short prompt is CPU's and stream's together.
TEST(PlanCommand, PromptsOfTheMeasuredMachine) {
  const Json plan = planned({"-m", "synth:deepseek-v3.2,dense=1,moe=4,type=nvfp4", "--machine",
                             "h200-xeon-16-cores", "-c", "16416", "-cmoe"});
  EXPECT_NEAR(plan.at("decode").at(0).at("tokens_per_s").get<double>(), 132.9, 0.15 * 132.9);
  const Json& few = plan.at("prefill").at(0);
  EXPECT_EQ(few.at("tokens"), 512);
  EXPECT_NEAR(few.at("tokens_per_s").get<double>(), 2604, 0.15 * 2604);
  EXPECT_EQ(few.at("experts"), "shared");
  EXPECT_NEAR(few.at("cpu_share").get<double>(), 0.5, 0.25);
  EXPECT_NEAR(plan.at("prefill").at(1).at("tokens_per_s").get<double>(), 12827, 0.15 * 12827);
  const Json& many = plan.at("prefill").at(2);
  EXPECT_EQ(many.at("tokens"), 16384);
  EXPECT_NEAR(many.at("tokens_per_s").get<double>(), 27830, 0.15 * 27830);
  EXPECT_LT(many.at("cpu_share").get<double>(), 0.05);
}

TEST(PlanCommand, TheTableHasTheSameSums) {
  const ProgramResult result = run_sluice({"plan", "--model-preset", "deepseek-v3.2", "--type", "nvfp4",
                                           "--machine", "rtx4090-768gb-ddr5-12ch", "-c", "32768"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* const text :
       {"NVIDIA GeForce RTX 4090", "AMD EPYC 9354", "routed experts", "cache: latents", "total", " free\n",
        "decode ", "prefill ", "limit ", "experts shared (CPU "}) {
    EXPECT_NE(result.out.find(text), std::string::npos) << text << "\n" << result.out;
  }
}

TEST(PlanCommand, WhatDoesNotFitIsShownWithWhatHelps) {
  const Arguments little{"plan",   "--model-preset", "deepseek-v3.2", "--type",
                         "nvfp4",  "--machine",      kMachines[2],    "-c",
                         "131072", "--vram-limit",   "22GB"};
  const ProgramResult result = run_sluice(little);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.out.find("too much"), std::string::npos) << result.out;
  EXPECT_NE(result.err.find("NVIDIA GeForce RTX 4090: expected "), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("each of these alone would make it fit: -c "), std::string::npos) << result.err;
  const ProgramResult json = run_sluice(with(little, {"--json"}));
  EXPECT_EQ(json.exit_code, 1);
  const Json plan = Json::parse(json.out);
  EXPECT_EQ(plan.at("fits"), false);
  const Json& remedy = plan.at("remedies").at(0);
  EXPECT_EQ(remedy.at("flag"), "-c");
  const ProgramResult smaller =
      run_sluice(with(little, {"-c", std::to_string(remedy.at("value").get<int64_t>())}));
  EXPECT_EQ(smaller.exit_code, 0) << smaller.err;
}

TEST(PlanCommand, FlagsOfLlamaCppPlaceExperts) {
  const Arguments base{"--model-preset", "deepseek-v3.2", "--type", "nvfp4",
                       "--machine",      kMachines[0],    "-c",     "8192"};
  const auto resident = [](const Json& plan) {
    std::vector<int64_t> layers;
    for (size_t i = 0; i < plan.at("layers").size(); ++i) {
      if (plan.at("layers").at(i).at("gpu_experts") == true) layers.push_back(static_cast<int64_t>(i));
    }
    return layers;
  };
  EXPECT_EQ(resident(planned(with(base, {"-ncmoe", "58"}))), (std::vector<int64_t>{58, 59, 60}));
  EXPECT_TRUE(resident(planned(with(base, {"-cmoe"}))).empty());
  EXPECT_EQ(resident(planned(with(base, {"-ot", "blk\\.7\\..*_exps=CUDA0"}))), (std::vector<int64_t>{7}));
  EXPECT_GT(resident(planned(base)).size(), 5) << "memory that is left over is filled";
  const Json part = planned(with(base, {"-ngl", "31"}));
  EXPECT_EQ(part.at("gpu_layers"), 31);
  EXPECT_EQ(part.at("layers").at(30).at("gpu"), false);
  EXPECT_EQ(part.at("layers").at(31).at("gpu"), true);
}

TEST(PlanCommand, ComparesOtherPlacements) {
  const Arguments base{"plan",  "--model-preset", "deepseek-v3.2", "--type",
                       "nvfp4", "--machine",      kMachines[0],    "-c",
                       "8192",  "--compare"};
  const ProgramResult result = run_sluice(base);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string table = result.out.substr(result.out.find("-ncmoe    GPU GB    decode"));
  EXPECT_EQ(std::ranges::count(table, '\n'), 11) << "a head, nine steps and the one that is chosen\n"
                                                 << table;
  EXPECT_NE(table.find("\n     3"), std::string::npos) << table;
  EXPECT_NE(table.find("\n    61"), std::string::npos) << table;
  const std::string chosen = result.out.substr(result.out.find("-ncmoe ") + 7, 2);
  const size_t line = table.find("\n    " + chosen);
  ASSERT_NE(line, std::string::npos) << table;
  EXPECT_EQ(table.find("recommended"), table.find('\n', line + 1) - std::string("recommended").size());
  EXPECT_NE(table.find("does not fit"), std::string::npos) << "58 layers of experts in 96 GB";
  EXPECT_LT(table.find("does not fit"), line) << "fewer layers in RAM than the smallest number that fits";
  EXPECT_EQ(table.find("does not fit", line), std::string::npos);
  const ProgramResult cpu = run_sluice(with(base, {"-ngl", "0"}));
  EXPECT_EQ(cpu.exit_code, 0) << cpu.err;
  EXPECT_EQ(cpu.out.find("GPU GB"), std::string::npos);
  EXPECT_EQ(run_sluice(with(base, {"--json"})).exit_code, 2);
}

TEST(PlanCommand, MachinesAreFilesOrNames) {
  const TemporaryDirectory directory;
  const std::string path = (directory / "m.json").string();
  const std::filesystem::path shipped = source_directory() / "machines/rtx4090-768gb-ddr5-12ch.json";
  std::ifstream file(shipped);
  Json machine = Json::parse(file);
  machine.erase("gpu");
  std::ofstream(path) << machine;
  const Json plan = planned({"--machine", path, "-c", "512"});
  EXPECT_FALSE(plan.contains("gpu"));
  EXPECT_EQ(plan.at("gpu_layers"), 0);

  machine["cpu"]["cores"] = "many";
  std::ofstream(path) << machine;
  const ProgramResult wrong = run_sluice({"plan", "--machine", path});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_EQ(wrong.err, "sluice: error: " + path + ": cpu.cores: expected a whole number, found \"many\"\n");

  const ProgramResult unknown = run_sluice({"plan", "--machine", "cray-1"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_NE(unknown.err.find("h200-xeon-16-cores, rtx-pro-6000-epyc-9374f, "), std::string::npos)
      << unknown.err;
}

TEST(PlanCommand, ThisMachineWantsToBeMeasuredFirst) {
  const TemporaryDirectory cache;
  const ProgramResult result =
      run_sluice({"plan"}, {.environment = {{"XDG_CACHE_HOME", cache.path().string()}}});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("expected measurements of `sluice tune`"), std::string::npos) << result.err;
}

TEST(PlanCommand, WrongUsageIsTold) {
  for (const Arguments& arguments : {Arguments{"plan", "--vram-limit", "lots"},
                                     Arguments{"plan", "-m", "x.gguf", "--model-preset", "deepseek-v3.2"},
                                     Arguments{"plan", "--type", "q8_0"}}) {
    EXPECT_EQ(run_sluice(arguments).exit_code, 2) << arguments[1];
  }
  const ProgramResult preset = run_sluice({"plan", "--model-preset", "gpt", "--machine", kMachines[0]});
  EXPECT_EQ(preset.err, "sluice: error: --model-preset: expected one of deepseek-v3.2, tiny, found gpt\n");
}

}  // namespace
}  // namespace sluice::testing
