// `sluice tune`: measures, stores, recommends, and is stopped.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "support/run_program.h"
#include "support/temporary_directory.h"

namespace sluice::testing {
namespace {

using Json = nlohmann::json;

class Tune : public ::testing::Test {
 protected:
  [[nodiscard]] ProgramOptions options() const {
    return {.environment = {{"XDG_CACHE_HOME", cache_.path().string()}}};
  }

  TemporaryDirectory cache_;
};

TEST_F(Tune, MeasuresOnceAndThePlanGoesByIt) {
  const ProgramResult tuned = run_sluice({"tune", "--json"}, options());
  ASSERT_EQ(tuned.exit_code, 0) << tuned.err;
  const Json profile = Json::parse(tuned.out);
  EXPECT_GT(profile.at("cpu").at("read_gb_per_s"), 0);
  EXPECT_GT(profile.at("cpu").at("int8_gops"), 0);
  EXPECT_NE(tuned.err.find("stored in " + cache_.path().string()), std::string::npos) << tuned.err;

  const ProgramResult plan = run_sluice({"plan", "-c", "512", "--json"}, options());
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_EQ(Json::parse(plan.out).at("machine"), profile.at("name"));
  EXPECT_EQ(Json::parse(plan.out).contains("gpu"), profile.contains("gpu"));
}

TEST_F(Tune, RecommendsFlagsForAModelAndWritesWhereItIsTold) {
  const std::string path = (cache_ / "mine.json").string();
  const ProgramResult result =
      run_sluice({"tune", "-m", "synth:tiny,dense=1,moe=3", "-c", "1024", "-o", path}, options());
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("recommended:\n  sluice chat -m synth:tiny,dense=1,moe=3 -c 1024 -ub 512 -ngl "),
            std::string::npos)
      << result.out;
  EXPECT_TRUE(std::filesystem::exists(path));
  const ProgramResult plan = run_sluice({"plan", "--machine", path, "-c", "512"});
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
}

TEST_F(Tune, WithoutAGpuItSaysSo) {
  ProgramOptions without = options();
  without.environment.emplace_back("CUDA_VISIBLE_DEVICES", "");
  const ProgramResult result = run_sluice({"tune"}, without);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("no GPU: "), std::string::npos) << result.out;
}

TEST_F(Tune, AnInterruptStoresNothing) {
  TerminalProgram program({"tune"}, options().environment);
  ASSERT_TRUE(program.wait_for("measuring: ")) << program.shown();
  program.send(SIGINT);
  EXPECT_TRUE(program.wait_for("interrupted; nothing was stored")) << program.shown();
  EXPECT_EQ(program.wait_for_exit(), 130);
  EXPECT_TRUE(std::filesystem::is_empty(cache_.path()));
}

TEST_F(Tune, AWrongModelIsToldBeforeAnythingIsMeasured) {
  const ProgramResult result = run_sluice({"tune", "-m", "/nowhere.gguf"}, options());
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("/nowhere.gguf"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(cache_.path()));
}

}  // namespace
}  // namespace sluice::testing
