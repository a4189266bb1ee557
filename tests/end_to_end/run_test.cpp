// `sluice run` and what all commands share: exit codes, one-line errors, standard output kept clean.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/run_program.h"
#include "support/temporary_directory.h"
#include "support/tiny_chat_model.h"

namespace sluice::testing {
namespace {

Arguments run_arguments(const Arguments& more) {
  Arguments arguments{"run", "-m", tiny_chat_model().string(), "-c", "512", "--top-k", "20", "-t", "2"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// Exit code 1 and a single line that names what is wrong.
void expect_failure(const ProgramResult& result, const std::string& part) {
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_TRUE(result.err.starts_with("sluice: error: ")) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  EXPECT_EQ(result.out, "");
}

void expect_usage_error(const ProgramResult& result, const std::string& part) {
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  EXPECT_EQ(result.out, "");
}

TEST(Run, JsonReportIsOneObject) {
  const ProgramResult result = run_sluice(run_arguments({"-p", "the", "-n", "12", "-s", "1", "--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("prompt_tokens"), 2);  // BOS and "the"
  EXPECT_EQ(json.at("ids").size(), 12U);
  EXPECT_EQ(json.at("stop_reason"), "max_tokens");
  EXPECT_GT(json.at("timings").at("generated_seconds").get<double>(), 0.0);
  EXPECT_FALSE(json.at("text").get<std::string>().empty());
}

TEST(Run, TextIsThatOfTheJsonReport) {
  const ProgramResult json = run_sluice(run_arguments({"-p", "in", "-n", "9", "-s", "4", "--json"}));
  const ProgramResult text = run_sluice(run_arguments({"-p", "in", "-n", "9", "-s", "4"}));
  ASSERT_EQ(text.exit_code, 0) << text.err;
  EXPECT_EQ(text.out, nlohmann::json::parse(json.out).at("text").get<std::string>() + "\n");
  const ProgramResult echo = run_sluice(run_arguments({"-p", "in", "-n", "9", "-s", "4", "--echo"}));
  EXPECT_EQ(echo.out, std::string("in").append(text.out));
}

TEST(Run, WhereTheExpertsAreDoesNotChangeTheText) {
  const Arguments prompt{"-p", "the end", "-n", "16", "-s", "5"};
  const auto text = [&](const Arguments& flags) {
    Arguments arguments = run_arguments(prompt);
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const ProgramResult result = run_sluice(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  };
  const std::string loaded = text({});
  EXPECT_EQ(text({"--mmap"}), loaded);
  EXPECT_EQ(text({"--numa", "off"}), loaded);
  EXPECT_EQ(text({"--numa", "interleave"}), loaded);
  EXPECT_EQ(text({"--exact", "--mmap"}), text({"--exact"}));
}

TEST(Run, LogSaysWhatIsInUse) {
  const std::string log =
      run_sluice(run_arguments({"-p", "a", "-n", "1", "--mmap", "--exact", "--log-level", "info"})).err;
  EXPECT_NE(log.find("2 threads"), std::string::npos) << log;
  EXPECT_NE(log.find("float32 activations, experts mapped"), std::string::npos) << log;
}

TEST(Run, SeedDecidesTheText) {
  const auto text = [](const std::string& seed, const std::string& batch) {
    return run_sluice(run_arguments({"-p", "the end", "-n", "24", "-s", seed, "-ub", batch})).out;
  };
  EXPECT_EQ(text("7", "512"), text("7", "512"));
  EXPECT_NE(text("7", "512"), text("8", "512"));
}

TEST(Run, PromptComesFromAFileOrStandardInput) {
  const Arguments more{"-n", "4", "-s", "1"};
  ProgramOptions piped;
  piped.input = "than\n";
  const std::string from_input = run_sluice(run_arguments(more), piped).out;
  Arguments flagged = more;
  flagged.insert(flagged.end(), {"-p", "than"});
  EXPECT_EQ(from_input, run_sluice(run_arguments(flagged)).out);
  Arguments dash = more;
  dash.insert(dash.end(), {"-f", "-"});
  EXPECT_EQ(from_input, run_sluice(run_arguments(dash), piped).out);
}

TEST(Run, ContextEndsTheText) {
  const ProgramResult result =
      run_sluice({"run", "-m", tiny_chat_model().string(), "-c", "20", "--temp", "0", "-p", "abc", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out).at("stop_reason"), "context_full");
}

TEST(Run, MarkersAreTextUnlessAskedFor) {
  const auto prompt_tokens = [](const Arguments& more) {
    const ProgramResult result = run_sluice(run_arguments(more));
    return nlohmann::json::parse(result.out).at("prompt_tokens").get<int>();
  };
  EXPECT_EQ(prompt_tokens({"-p", "<think>", "-n", "1", "--json", "--special"}), 2);
  EXPECT_GT(prompt_tokens({"-p", "<think>", "-n", "1", "--json"}), 2);
}

TEST(Run, ErrorsAreOneLine) {
  expect_failure(run_sluice({"run", "-m", "/nonexistent/model.gguf", "-p", "a"}), "/nonexistent/model.gguf");
  expect_failure(run_sluice(run_arguments({"-p",
                                           "a\xFF"
                                           "b"})),
                 "UTF-8");
  expect_failure(run_sluice(run_arguments({"-f", "/nonexistent/prompt"})), "/nonexistent/prompt");
  expect_failure(run_sluice(run_arguments({"-p", "a", "--top-p", "7"})), "top-p");
  expect_failure(run_sluice({"run", "-m", tiny_model_without_tokenizer().string(), "-p", "a"}), "tokenizer");
  TemporaryDirectory directory;
  expect_failure(run_sluice(run_arguments({"-f", directory.path().string()})), "directory");
}

TEST(Run, ContextTooShortNamesBothNumbers) {
  const ProgramResult result =
      run_sluice({"run", "-m", tiny_chat_model().string(), "-c", "32", "-p", std::string(100, 'x')});
  expect_failure(result, "32");
  EXPECT_NE(result.err.find("101"), std::string::npos) << result.err;
  expect_failure(run_sluice({"run", "-m", tiny_chat_model().string(), "-c", "200001", "-p", "a"}), "200001");
}

TEST(Run, Placement) {
  const auto with = [](const Arguments& flags) {
    Arguments more{"-p", "a", "-n", "1"};
    more.insert(more.end(), flags.begin(), flags.end());
    return run_sluice(run_arguments(more));
  };
  // Two of three layers, or none, are the CPU's, and the flags together are told.
  for (const Arguments& flags : {Arguments{"-ngl", "2", "-ot", "exps=CUDA0"},
                                 {"-ngl", "0", "-ot", "exps=CUDA0"},
                                 {"-ngl", "3", "-ot", "blk.0.attn_output=CUDA0"},
                                 {"-ngl", "3", "-ot", "token_embd=CUDA0"}}) {
    const ProgramResult result = with(flags);
    expect_failure(result, "-ot/--override-tensor: expected CUDA0 only for layers that -ngl/--n-gpu-layers");
    EXPECT_NE(result.err.find(flags.back() + ", which matches"), std::string::npos) << result.err;
  }
  expect_failure(with({"-ot", "exps"}), "REGEX=CPU or REGEX=CUDA0");
  expect_failure(with({"-ot", "exps=CUDA7"}), "REGEX=CPU or REGEX=CUDA0");
  expect_failure(with({"-ot", "(=CPU"}), "a regular expression");
  expect_failure(with({"-ot", "attn=CPU"}), "name routed experts only");
  expect_failure(with({"-ot", "up_exps=CUDA0"}), "one place for all routed experts of layer");
  // They leave all to where it was.
  for (const Arguments& flags : {Arguments{"-ngl", "0"},
                                 {"-ngl", "0", "-ncmoe", "0"},
                                 {"-cmoe"},
                                 {"-ncmoe", "99"},
                                 {"-ncmoe", "0", "-ot", "exps=CPU"},
                                 {"-ot", "exps=CPU", "-ot", "up_exps=CUDA0"}}) {
    const ProgramResult result = with(flags);
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
}

TEST(Run, AnExpertCacheIsThereOrRefused) {
  const auto with = [](const Arguments& flags) {
    Arguments arguments = run_arguments({"-p", "a", "-n", "1"});
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return run_sluice(arguments);
  };
  expect_failure(with({"--expert-cache", "1GB", "-ngl", "0"}), "--expert-cache: expected a GPU");
  expect_failure(with({"--expert-cache", "auto", "-ngl", "0"}), "--expert-cache: expected a GPU");
  expect_failure(with({"--expert-cache", "auto", "-cmoe"}), "--expert-cache: expected a size, or off");
  const ProgramResult off = with({"--expert-cache", "off", "-ngl", "0"});
  EXPECT_EQ(off.exit_code, 0) << off.err;
}

TEST(Run, ClosedOutputEndsItQuietly) {
  ProgramOptions options;
  options.close_output = true;
  const ProgramResult result = run_sluice(run_arguments({"-p", "a", "-n", "50", "-ngl", "0"}), options);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.err, "");
}

TEST(CommandLine, WrongUsageIsCode2) {
  expect_usage_error(run_sluice({"chat", "--no-such-flag"}), "--no-such-flag");
  expect_usage_error(run_sluice({"no-such-command"}), "no-such-command");
  expect_usage_error(run_sluice({}), "subcommand");
  expect_usage_error(run_sluice({"run", "-c", "many", "-p", "a"}), "ctx-size");
  expect_usage_error(run_sluice({"run", "-ctk", "q3", "-p", "a"}), "cache-type-k");
  expect_usage_error(run_sluice({"run", "--attention", "lazy", "-p", "a"}), "attention");
  expect_usage_error(run_sluice({"run", "--expert-cache", "much", "-p", "a"}), "--expert-cache");
  expect_usage_error(run_sluice({"run", "--numa", "all", "-p", "a"}),
                     "expected auto|off|interleave, found all");
}

TEST(CommandLine, WordsAreTheSameForEveryCommand) {
  const auto error_of = [](const Arguments& arguments) {
    const ProgramResult result = run_sluice(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    return result.err.substr(0, result.err.find(" ("));
  };
  for (const std::string command : {"run", "chat", "bench"}) {
    for (const char* wrong : {"q3", "F32", "0", "", "f32 "}) {
      EXPECT_EQ(
          error_of({command, "-ctk", wrong}),
          std::string("sluice: error: --cache-type-k: expected f32|bf16|bf16+int8|fp8|fp8+int8, found ") +
              wrong);
    }
    // Numbers are no words, though an enumeration has them inside.
    for (const char* wrong : {"lazy", "1"}) {
      EXPECT_EQ(error_of({command, "--attention", wrong}),
                std::string("sluice: error: --attention: expected sparse|dense, found ") + wrong);
    }
  }
  EXPECT_EQ(error_of({"perplexity", "-f", "x", "--score", "0"}),
            "sluice: error: --score: expected half|all, found 0");
  EXPECT_EQ(error_of({"bench", "-ctk", "f32,q3"}), error_of({"run", "-ctk", "q3"}));
}

TEST(CommandLine, WholeNumbersThatDoNotFitAreWrongUsage) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> flags{
      {"run",
       {"--ctx-size", "--threads", "--ubatch-size", "--predict", "--seed", "--top-k", "--repeat-last-n"}},
      {"chat", {"--predict", "--seed"}},
      {"perplexity", {"--chunks", "--ctx-size"}},
      {"bench", {"--repetitions"}},
      {"logits", {"--last"}}};
  for (const auto& [command, names] : flags) {
    for (const std::string& name : names) {
      for (const std::string wrong : {"99999999999999999999", "-99999999999999999999", "9223372036854775808",
                                      "0x10", "1e3", "7 ", " 7", "+7", "7,8", "--"}) {
        const ProgramResult result = run_sluice({command, name + "=" + wrong});
        EXPECT_EQ(result.exit_code, 2) << command << " " << name << " " << wrong;
        EXPECT_TRUE(result.err.starts_with("sluice: error: " + name + ": expected ")) << result.err;
        EXPECT_NE(result.err.find(", found " + wrong + " ("), std::string::npos) << result.err;
        EXPECT_EQ(result.out, "");
      }
    }
  }
}

TEST(CommandLine, LeadingZerosMakeNoOctalNumber) {
  const ProgramResult result = run_sluice(run_arguments({"-p", "the", "-n", "010", "-s", "1", "--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out).at("ids").size(), 10U);
}

TEST(CommandLine, HelpHasAnExample) {
  for (const char* command :
       {"chat", "run", "perplexity", "bench", "convert", "quantize", "inspect", "tokenize", "logits"}) {
    const ProgramResult result = run_sluice({command, "--help"});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_NE(result.out.find(std::string("sluice ") + command), std::string::npos) << result.out;
    EXPECT_NE(result.out.find("Example"), std::string::npos) << result.out;
  }
  const ProgramResult version = run_sluice({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_TRUE(version.out.starts_with("sluice ")) << version.out;
}

}  // namespace
}  // namespace sluice::testing
