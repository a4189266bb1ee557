// `cmake --install`: the program and the embedded model in a place of their own.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "support/places.h"
#include "support/run_program.h"
#include "support/temporary_directory.h"

namespace sluice::testing {
namespace {

class Installed : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(source_directory() / "models/tiny.gguf")) {
      GTEST_SKIP() << "models/tiny.gguf is not there to be installed";
    }
    const ProgramResult result = run_sluice(
        {"--install", SLUICE_BINARY_DIR, "--prefix", prefix_.path().string()}, {.program = "cmake"});
    ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
  }
  /// The installed program, from a directory that holds nothing of ours.
  [[nodiscard]] ProgramResult run(const Arguments& arguments, const std::string& input = "") const {
    return run_sluice(arguments,
                      {.input = input, .program = (prefix_ / "bin/sluice").string(), .directory = "/"});
  }

  TemporaryDirectory prefix_;
};

TEST_F(Installed, ProgramRunsFromAnywhere) {
  const ProgramResult story = run({"run", "-p", "Once upon a time", "-n", "8", "--temp", "0"});
  EXPECT_EQ(story.exit_code, 0) << story.err;
  EXPECT_FALSE(story.out.empty());
  const ProgramResult inspected =
      run({"inspect", (prefix_ / "share/sluice/models/tiny.gguf").string(), "--json"});
  ASSERT_EQ(inspected.exit_code, 0) << inspected.err;
  EXPECT_EQ(nlohmann::json::parse(inspected.out).at("tokenizer"), true);
}

TEST_F(Installed, MachinesAreFoundByName) {
  const ProgramResult result =
      run({"plan", "--model-preset", "tiny", "--machine", "rtx4090-768gb-ddr5-12ch", "-c", "512"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(std::filesystem::exists(prefix_ / "share/sluice/machines/rtx4090-768gb-ddr5-12ch.json"));
}

TEST_F(Installed, ModelIsTheOneItWasInstalledWith) {
  const ProgramResult result =
      run({"perplexity", "-f", "-", "-c", "8", "--chunks", "1", "--json"},
          "The ship came back to the harbour, and all the men on board were well and glad of it.");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out).at("model").get<std::string>(),
            (prefix_ / "share/sluice/models/tiny.gguf").string());
}

}  // namespace
}  // namespace sluice::testing
