// Models that are larger than the machine: refused, and run where they lie with --mmap.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "engine/synth/recipe.h"
#include "offload/machine.h"
#include "quant/gguf_writer.h"
#include "support/run_program.h"
#include "support/temporary_directory.h"
#include "support/tiny_chat_model.h"

namespace sluice::testing {
namespace {

namespace fs = std::filesystem;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

/// A file with the header of a model of more experts than fit, and a hole where its weights would be.
std::string write_enormous_model(const TemporaryDirectory& directory) {
  synth::ModelSpec spec = synth::parse_model_spec("synth:tiny,dense=0,experts=4096,type=bf16");
  constexpr int64_t kLayerBytes = int64_t{4096} * 3 * 256 * 256 * 2;
  spec.moe_layers = offload::available_memory_bytes() / kLayerBytes + 10;
  const ModelConfig config = synth::config_of(spec);
  const synth::TensorTable table = synth::plan_tensors(spec, config);
  const fs::path path = directory / "enormous.gguf";
  {
    const quant::GgufWriter writer(directory / "unfinished",
                                   synth::make_metadata(spec, config, table.parameters()), table.tensors);
    const fs::directory_entry part = *fs::directory_iterator(directory.path());
    fs::copy_file(part.path(), path);
  }
  int64_t data_bytes = 0;
  for (const quant::Tensor& tensor : table.tensors) data_bytes += (tensor.data_bytes() + 31) / 32 * 32;
  fs::resize_file(path, fs::file_size(path) + static_cast<uintmax_t>(data_bytes) + 32);
  return path.string();
}

TEST(Memory, ExpertsThatDoNotFitAreRefusedWithTheNumbers) {
  const TemporaryDirectory directory;
  const std::string model = write_enormous_model(directory);
  for (const Arguments& command : {Arguments{"run", "-p", "a"}, {"bench", "-p", "4", "-n", "0"}}) {
    Arguments arguments = command;
    arguments.insert(arguments.end(), {"-m", model});
    const ProgramResult result = run_sluice(arguments);
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    for (const std::string& part : {model + ": expected ", std::string(" GB for the routed experts"),
                                    std::string("--mmap"), std::string(" GB available\n")}) {
      EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    }
  }
}

TEST(Memory, MappedOnesRunAndSayWhatThatCosts) {
  const TemporaryDirectory directory;
  const std::string model = write_enormous_model(directory);
  const ProgramResult large =
      run_sluice({"run", "-m", model, "--mmap", "-p", "a", "-n", "2", "--ignore-eos", "-c", "64"});
  EXPECT_EQ(large.exit_code, 0) << large.err;
  EXPECT_TRUE(large.err.starts_with("--mmap: ")) << large.err;
  EXPECT_NE(large.err.find("read from the disk again"), std::string::npos) << large.err;
  const ProgramResult small =
      run_sluice({"run", "-m", tiny_chat_model().string(), "--mmap", "-p", "the", "-n", "2", "-c", "64"});
  EXPECT_EQ(small.exit_code, 0) << small.err;
  EXPECT_TRUE(small.err.starts_with("--mmap: ")) << small.err;
  EXPECT_EQ(small.err.find("disk"), std::string::npos) << small.err;
}

/// Room to start in, and for little more.
constexpr uint64_t kRoom = 600'000'000;

/// The only line of a program that has failed.
std::string error_of(const Arguments& arguments, const ProgramOptions& options) {
  const ProgramResult result = run_sluice(arguments, options);
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_TRUE(result.err.starts_with("sluice: error: ")) << result.err;
  return result.err;
}

TEST(Memory, WhatALimitOfTheProcessLeavesIsAllThereIs) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take more than any limit";
  const std::string model = "synth:tiny,dense=0,moe=6,type=q8_0,experts=1024";
  const std::string error = error_of({"run", "-m", model, "-p", "a", "-t", "2"}, {.data = kRoom});
  EXPECT_NE(error.find("expected 1.3 GB of memory: 1.3 GB for the routed experts"), std::string::npos)
      << error;
  EXPECT_NE(error.find(" GB available\n"), std::string::npos) << error;
}

TEST(Memory, WorkingMemoryThatDoesNotFitNamesTheFlag) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take more than any limit";
  const std::string model = "synth:tiny,dense=1,moe=1,type=q8_0";
  for (const Arguments& command : {Arguments{"run", "-p", "a"}, {"bench", "-p", "4", "-n", "0"}}) {
    Arguments arguments = command;
    arguments.insert(arguments.end(), {"-m", model, "-t", "2", "-b", "65536"});
    const std::string error = error_of(arguments, {.data = kRoom});
    EXPECT_NE(error.find("passes of 65536 tokens (a smaller -b or -ub takes less)"), std::string::npos)
        << error;
    EXPECT_NE(error.find(" GB available"), std::string::npos) << error;
  }
}

TEST(Memory, ThreadsThatCannotStartNameTheFlag) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take more than any limit";
  const std::string error = error_of({"run", "-m", tiny_chat_model().string(), "-p", "the", "-t", "1024"},
                                     {.address_space = 2'000'000'000});
  EXPECT_NE(error.find("-t/--threads: expected 1024 threads that the system lets start, found "),
            std::string::npos)
      << error;
}

}  // namespace
}  // namespace sluice::testing
