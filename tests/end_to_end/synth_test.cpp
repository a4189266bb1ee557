// `sluice synth` and `-m synth:...` as a user runs them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "quant/gguf_reader.h"
#include "support/non_finite.h"
#include "support/places.h"
#include "support/run_program.h"
#include "support/temporary_directory.h"

namespace sluice {
namespace {

using testing::Arguments;
using testing::ProgramResult;
using testing::run_sluice;
using testing::TemporaryDirectory;

constexpr size_t kTinyVocabulary = 512;

void expect_has(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "no " << part << " in:\n" << text;
}

/// The floats at the end of a .npy file.
std::vector<float> last_floats(const std::filesystem::path& path, size_t count) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::vector<float> values(count);
  EXPECT_GT(bytes.size(), count * sizeof(float));
  std::memcpy(values.data(), bytes.data() + bytes.size() - count * sizeof(float), count * sizeof(float));
  return values;
}

std::vector<float> logits_of(const std::string& model, const TemporaryDirectory& directory) {
  const std::string out = (directory / "logits.npy").string();
  const ProgramResult result =
      run_sluice({"logits", "-m", model, "--ids", "0,7,300,511", "--out", out, "-t", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return last_floats(out, kTinyVocabulary);
}

TEST(SynthCommand, EveryTypeRunsFromFileAndFromNothing) {
  const TemporaryDirectory directory;
  const std::string out = (directory / "out.gguf").string();
  for (const std::string type : {"bf16", "q8_0", "nvfp4", "q4_k"}) {
    SCOPED_TRACE(type);
    const ProgramResult made = run_sluice(
        {"synth", out, "--preset", "tiny", "--dense-layers", "1", "--moe-layers", "2", "--type", type});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    EXPECT_EQ(made.out, "");
    expect_has(made.err, std::to_string(std::filesystem::file_size(out)) + " bytes");
    const std::string spec = "synth:tiny,dense=1,moe=2,type=" + type;

    const ProgramResult inspected = run_sluice({"inspect", out});
    ASSERT_EQ(inspected.exit_code, 0) << inspected.err;
    expect_has(inspected.out, "sparse (indexer in 3 layers, top 32)");
    expect_has(inspected.out, spec + ",dense_type=q8_0,seed=1");
    const ProgramResult declared = run_sluice({"inspect", spec});
    ASSERT_EQ(declared.exit_code, 0) << declared.err;
    // All but the first line, which names the file.
    EXPECT_EQ(declared.out.substr(declared.out.find('\n')), inspected.out.substr(inspected.out.find('\n')));

    const std::vector<float> from_file = logits_of(out, directory);
    for (const float logit : from_file) ASSERT_TRUE(std::isfinite(logit));
    EXPECT_EQ(logits_of(spec, directory), from_file);

    for (const std::string& model : {out, spec}) {
      const ProgramResult run = run_sluice({"run", "-m", model, "-p", "the end", "-n", "8", "--ignore-eos"});
      EXPECT_EQ(run.exit_code, 0) << run.err;
      EXPECT_FALSE(run.out.empty());
    }
  }
}

TEST(SynthCommand, SeedAndExpertsAreTakenOver) {
  const TemporaryDirectory directory;
  const std::string out = (directory / "out.gguf").string();
  const ProgramResult made =
      run_sluice({"synth", out, "--preset", "tiny", "--dense-layers", "0", "--moe-layers", "1", "--experts",
                  "32", "--seed", "18446744073709551615", "--dense-type", "bf16", "-t", "3"});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const quant::GgufFile file = quant::GgufFile::open(out);
  EXPECT_EQ(file.find("blk.0.ffn_up_exps.weight")->ne[2], 32);
  EXPECT_EQ(file.find("blk.0.attn_q_a.weight")->dtype, quant::DType::kBF16);
  EXPECT_EQ(file.metadata().get<std::string>("sluice.synthetic"),
            "synth:tiny,dense=0,moe=1,type=q8_0,dense_type=bf16,seed=18446744073709551615,experts=32");
}

TEST(SynthCommand, OtherCommandsTakeTheTextToo) {
  const ProgramResult tokens = run_sluice({"tokenize", "-m", "synth:tiny", "the end"});
  EXPECT_EQ(tokens.exit_code, 0) << tokens.err;
  const ProgramResult bench =
      run_sluice({"bench", "-m", "synth:tiny,moe=1", "-p", "8", "-n", "2", "-r", "1"});
  EXPECT_EQ(bench.exit_code, 0) << bench.err;
  expect_has(bench.out, "synthetic tiny 1+1 seed 1");
  const ProgramResult chat = run_sluice({"chat", "-m", "synth:tiny,moe=1", "-p", "hello", "-n", "4"});
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
}

// Also what other commands do with a damaged file.
TEST(SynthCommand, CheckTensorsFindsDamage) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory directory;
  const std::string model = (directory / "model.gguf").string();
  const Arguments make{"synth", model, "--preset", "tiny", "--moe-layers", "1", "--type", "nvfp4"};
  const Arguments commands[] = {{"run", "-p", "a", "-n", "2"},
                                {"chat", "-p", "a", "-n", "2"},
                                {"bench", "-p", "4", "-n", "0", "-r", "1"},
                                {"logits", "--ids", "1", "--out", (directory / "out.npy").string()},
                                {"perplexity", "-f", (testing::source_directory() / "LICENSE").string()}};
  for (const std::string tensor : {"blk.1.ffn_up_exps.weight", "output_norm.weight"}) {
    ASSERT_EQ(run_sluice(make).exit_code, 0);
    const ProgramResult sound = run_sluice({"run", "-m", model, "--check-tensors", "-p", "a", "-n", "2"});
    EXPECT_EQ(sound.exit_code, 0) << sound.err;
    testing::plant_non_finite(model, tensor, 0, random);
    for (Arguments arguments : commands) {
      SCOPED_TRACE(arguments.front());
      arguments.insert(arguments.end(), {"-m", model, "--check-tensors"});
      const ProgramResult result = run_sluice(arguments);
      EXPECT_EQ(result.exit_code, 1) << result.err;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
      expect_has(result.err, model + ": tensor " + tensor + ": expected finite weights");
    }
  }
}

TEST(SynthCommand, FailuresAreOneLineAndLeaveNothing) {
  const TemporaryDirectory directory;
  const std::string out = (directory / "out.gguf").string();
  const struct {
    std::vector<std::string> arguments;
    int exit_code;
    std::string part;
  } cases[] = {
      {{"run", "-m", "synth:tiny,moe=x", "-p", "a"}, 1, "synth:tiny,moe=x: moe: expected a whole number"},
      {{"inspect", "synth:large"},
       1,
       "synth:large: preset: expected one of deepseek-v3.2, tiny, found large"},
      {{"synth", out, "--preset", "tiny", "--experts", "7"}, 1, "experts: expected a multiple of 4"},
      {{"synth", out, "--preset", "tiny", "--moe-layers", "0", "--dense-layers", "0"}, 1, "dense + moe"},
      {{"synth", (directory / "none" / "out.gguf").string(), "--preset", "tiny"}, 1, "none/out.gguf"},
      {{"synth", out, "--preset", "huge"}, 2, "huge is none of deepseek-v3.2, tiny"},
      {{"synth", out, "--type", "q6_k"}, 2, "q6_k is none of bf16, q8_0, nvfp4, q4_k"},
      {{"synth", out, "--moe-layers", "-1"}, 2, "--moe-layers"},
      {{"synth"}, 2, "OUT is required"},
  };
  for (const auto& wrong : cases) {
    const ProgramResult result = run_sluice(wrong.arguments);
    EXPECT_EQ(result.exit_code, wrong.exit_code) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    expect_has(result.err, wrong.part);
  }
  EXPECT_EQ(directory.listing(), "");
}

}  // namespace
}  // namespace sluice
