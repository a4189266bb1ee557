// `sluice perplexity` as a user runs it, against token-by-token scores and, where it is present, the
// reference model.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/engine.h"
#include "engine/perplexity.h"
#include "support/model_files.h"
#include "support/places.h"
#include "support/run_program.h"

namespace sluice {
namespace {

using nlohmann::json;
using testing::Arguments;
using testing::ModelFiles;
using testing::ProgramResult;
using testing::Random;
using testing::run_sluice;

class PerplexityCommand : public ::testing::Test {
 protected:
  ProgramResult run(const Arguments& extra, const std::string& input = "") const {
    Arguments arguments{"perplexity", "-m", files_.model(), "-ctk", "f32", "-t", "1"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return run_sluice(arguments, {.input = input});
  }
  std::string write_text(int64_t words) {
    std::string text;
    for (int64_t i = 0; i < words; ++i) {
      text += fmt::format("the {} in ", random_.integer(0, 99));
    }
    return files_.write("text.txt", text);
  }

  Random random_;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, random_.describe()};
  ModelFiles files_{ModelFiles::Text::kWithTokenizer, random_};
};

/// The second protocol spelled out: BOS and pieces of context - 1 tokens, one forward pass per token.
double token_by_token(const std::string& model_path, const std::string& text, int64_t context) {
  const Model model = Model::load(model_path);
  const std::vector<int32_t> ids = model.tokenizer().encode(text, SpecialTokens::kAsText);
  Runtime runtime(model, {.threads = 1});
  CpuCache cache(model.config(), context, CacheType::kF32);
  double sum = 0;
  int64_t count = 0;
  for (size_t begin = 0; begin + static_cast<size_t>(context) - 1 <= ids.size();
       begin += static_cast<size_t>(context) - 1) {
    int32_t previous = 0;  // BOS
    for (int64_t position = 0; position < context - 1; ++position) {
      ForwardRequest request;
      request.ids = {&previous, 1};
      request.first_position = position;
      const Runtime::Result result = runtime.forward(request, cache);
      previous = ids[begin + static_cast<size_t>(position)];
      sum += negative_log_likelihood(result.logits.row(0), previous);
      ++count;
    }
  }
  return sum / static_cast<double>(count);
}

TEST_F(PerplexityCommand, AllAgreesWithScoringTokenByToken) {
  const std::string path = write_text(30);
  std::ifstream stream(path);
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  const ProgramResult result = run({"-f", path, "-c", "24", "--score", "all", "--json", "-ub", "7"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json parsed = json::parse(result.out);
  const double expected = token_by_token(files_.model(), text, 24);
  EXPECT_NEAR(parsed.at("mean_nll").get<double>(), expected, 1e-5);
  EXPECT_NEAR(parsed.at("ppl").get<double>(), std::exp(expected), 1e-3);
  EXPECT_EQ(parsed.at("tokens_scored").get<int64_t>(), parsed.at("windows").get<int64_t>() * 23);
  EXPECT_EQ(parsed.at("window_mean_nll").size(), parsed.at("windows").get<size_t>());
  EXPECT_EQ(parsed.at("complete"), true);
}

TEST_F(PerplexityCommand, TextOutputHasRunningAndFinalValues) {
  const std::string path = write_text(60);
  const ProgramResult result = run({"-f", path, "-c", "32", "--chunks", "3"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(result.out.starts_with("[1]")) << result.out;
  EXPECT_NE(result.out.find(",[3]"), std::string::npos) << result.out;
  EXPECT_EQ(result.out.find(",[4]"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("\nFinal estimate: PPL = "), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("over 45 tokens)"), std::string::npos) << result.out;  // 3 * (32 - 16 - 1)
}

TEST_F(PerplexityCommand, StandardInputIsTheFile) {
  const std::string path = write_text(30);
  std::ifstream stream(path);
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  EXPECT_EQ(run({"-f", "-", "-c", "16"}, text).out, run({"-f", path, "-c", "16"}).out);
}

TEST_F(PerplexityCommand, DenseEqualsSparseUpToTopK) {
  const std::string path = write_text(20);
  const std::string sparse = run({"-f", path, "-c", "8", "--attention", "sparse"}).out;
  EXPECT_NE(sparse, "");
  EXPECT_EQ(run({"-f", path, "-c", "8", "--attention", "dense"}).out, sparse);
}

TEST_F(PerplexityCommand, HostileInputIsRefused) {
  const std::string path = files_.write("short.txt", "the end");
  const ProgramResult too_short = run({"-f", path, "-c", "64"});
  EXPECT_EQ(too_short.exit_code, 1);
  EXPECT_NE(too_short.err.find("63 tokens"), std::string::npos) << too_short.err;
  EXPECT_NE(too_short.err.find("short.txt"), std::string::npos) << too_short.err;
  EXPECT_EQ(too_short.out, "");
  EXPECT_EQ(run({"-f", files_.path("none.txt")}).exit_code, 1);
  EXPECT_EQ(run({"-f", path, "-c", "2"}).exit_code, 1);
  EXPECT_EQ(run({"-f", path, "-c", "257"}).exit_code, 1);  // the model's context is 256
  EXPECT_EQ(run({"-f", files_.write("bad.txt", "\xC0\x80 the end"), "-c", "4"}).exit_code, 1);
  EXPECT_EQ(run({"-c", "8"}).exit_code, 2);
  EXPECT_EQ(run({"-f", path, "--score", "third"}).exit_code, 2);
  for (const std::string wrong :
       {"0", "-2", "-17", "00", "+0", "1e3", "99999999999999999999", "9223372036854775808"}) {
    const ProgramResult result = run({"-f", path, "--chunks", wrong});
    EXPECT_EQ(result.exit_code, 2) << wrong;
    EXPECT_NE(result.err.find("--chunks: expected "), std::string::npos) << result.err;
    EXPECT_NE(result.err.find(", found "), std::string::npos) << result.err;
  }
}

TEST(PerplexityWithoutTokenizer, SaysWhatIsMissing) {
  Random random;
  SCOPED_TRACE(random.describe());
  const ModelFiles files(ModelFiles::Text::kWithoutTokenizer, random);
  const ProgramResult result =
      run_sluice({"perplexity", "-m", files.model(), "-f", files.write("t.txt", "text")});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("tokenizer"), std::string::npos) << result.err;
}

/// The first window of the held-out text against transformers' own DeepSeek-V3.2 in float32.
TEST(PerplexityGolden, FirstWindowOfTheReference) {
  const std::filesystem::path tiny = testing::source_directory() / "../shared/models/tiny";
  if (!std::filesystem::exists(tiny / "golden/ppl.json")) {
    GTEST_SKIP() << "the reference values are not here: " << tiny;
  }
  const testing::TemporaryDirectory directory;
  const std::string model = (directory / "tiny.gguf").string();
  ASSERT_EQ(run_sluice({"convert", tiny.string(), model, "--type", "bf16"}).exit_code, 0);
  std::ifstream stream(tiny / "golden/ppl.json");
  const json golden = json::parse(stream).at("results");
  for (const std::string attention : {"sparse", "dense"}) {
    const ProgramResult result =
        run_sluice({"perplexity", "-m", model, "-f", (tiny / "golden/heldout.txt").string(), "-c", "2048",
                    "--score", "all", "--chunks", "1", "-ctk", "f32", "--json", "--attention", attention});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json found = json::parse(result.out);
    EXPECT_EQ(found.at("windows_in_text"), golden.at("ctx2048_" + attention).at("windows"));
    const json& expected = golden.at("ctx2048_" + attention).at("first_windows_mean_nll");
    EXPECT_NEAR(found.at("window_mean_nll").at(0).get<double>(), expected.at(0).get<double>(), 1e-3)
        << attention;
  }
}

}  // namespace
}  // namespace sluice
