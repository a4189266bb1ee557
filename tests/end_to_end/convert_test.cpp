// `sluice convert` and `sluice quantize` as a user runs them.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "quant/gguf_reader.h"
#include "support/model_files.h"
#include "support/run_program.h"

namespace sluice {
namespace {

using testing::ModelFiles;
using testing::ProgramResult;
using testing::Random;
using testing::run_sluice;

void expect_has(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "no " << part << " in:\n" << text;
}

class ConvertCommand : public ::testing::Test {
 protected:
  Random random_;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, random_.describe()};
  ModelFiles files_{ModelFiles::Text::kWithTokenizer, random_};
};

TEST_F(ConvertCommand, WritesAModelWithTheTypesAskedFor) {
  const std::string out = files_.path("out.gguf");
  const ProgramResult result =
      run_sluice({"convert", files_.checkpoint().string(), out, "--type", "q8_0", "--tensor-type",
                  "attn_output=bf16", "--tensor-type", "token_embd=F16", "--name", "Little One"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "");
  expect_has(result.err, "tensors");
  expect_has(result.err, "with tokenizer");
  const quant::GgufFile file = quant::GgufFile::open(out);
  EXPECT_EQ(file.metadata().get<std::string>("general.name"), "Little One");
  EXPECT_EQ(file.find("blk.0.attn_output.weight")->dtype, quant::DType::kBF16);
  EXPECT_EQ(file.find("token_embd.weight")->dtype, quant::DType::kF16);
  EXPECT_EQ(file.find("blk.1.ffn_up_exps.weight")->dtype, quant::DType::kQ8_0);
  expect_has(result.err, std::to_string(std::filesystem::file_size(out)) + " bytes");
}

TEST_F(ConvertCommand, QuantizeChangesTypesAndReportsFallbacks) {
  const std::string out = files_.path("small.gguf");
  const ProgramResult result = run_sluice({"quantize", files_.model(), out, "q4_k"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  expect_has(result.err, "fallback: ");  // rows of 192 do not divide into blocks of 256
  expect_has(result.err, "Q4_K");
  EXPECT_LT(std::filesystem::file_size(out), std::filesystem::file_size(files_.model()));
  EXPECT_EQ(run_sluice({"inspect", out}).exit_code, 0);
}

TEST_F(ConvertCommand, FailuresNameTheCulpritAndLeaveNothing) {
  const std::string before = files_.listing();
  const std::string checkpoint = files_.checkpoint().string();
  const struct {
    std::vector<std::string> arguments;
    std::string part;
  } cases[] = {
      {{"convert", checkpoint, files_.path("missing/out.gguf")}, "missing/out.gguf"},
      {{"convert", files_.path("nowhere"), files_.path("out.gguf")}, "nowhere"},
      {{"convert", checkpoint, files_.path("out.gguf"), "--tensor-type", "(=q8_0"}, "regular expression"},
      {{"convert", checkpoint, files_.path("out.gguf"), "--tensor-type", "no_such_tensor=q8_0"},
       "no_such_tensor"},
      {{"quantize", files_.model(), files_.path("missing/out.gguf"), "q8_0"}, "missing/out.gguf"},
      {{"quantize", checkpoint + "/config.json", files_.path("out.gguf"), "q8_0"}, "config.json"},
      {{"quantize", files_.model(), files_.path("out.gguf"), "i32"}, "I32"},
  };
  for (const auto& [arguments, part] : cases) {
    const ProgramResult result = run_sluice(arguments);
    EXPECT_EQ(result.exit_code, 1) << result.err;
    expect_has(result.err, part);
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  EXPECT_EQ(files_.listing(), before);
}

TEST_F(ConvertCommand, WrongUsageIsExitCode2) {
  const std::string checkpoint = files_.checkpoint().string();
  const std::string out = files_.path("out.gguf");
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"convert"},
                                                    {"convert", checkpoint},
                                                    {"convert", checkpoint, out, "--type", "q9_9"},
                                                    {"convert", checkpoint, out, "--tensor-type", "q8_0"},
                                                    {"convert", checkpoint, out, "--tensor-type", "a=q9"},
                                                    {"quantize", files_.model(), out},
                                                    {"quantize", files_.model(), out, "q9"}}) {
    const ProgramResult result = run_sluice(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_NE(result.err, "");
  }
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST(CommandHelp, EveryCommandShowsAnExample) {
  for (const std::string command : {"convert", "quantize", "inspect", "tokenize", "logits", "perplexity"}) {
    const ProgramResult result = run_sluice({command, "--help"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    expect_has(result.out, "sluice " + command);
    expect_has(result.out, "Example");
  }
}

}  // namespace
}  // namespace sluice
