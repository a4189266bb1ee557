// Ctrl-C or SIGTERM in the middle of work: exit code 130, at most one line of explanation, and no file left
// behind. Each test waits for a sign that the work has begun, and gives it far more of it than it could do in
// that moment.
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <utility>

#include "support/places.h"
#include "support/run_program.h"
#include "support/temporary_directory.h"
#include "support/tiny_chat_model.h"
#include "support/tiny_checkpoint.h"

namespace sluice::testing {
namespace {

constexpr int kInterrupted = 130;
constexpr int kTries = 20;  // an interrupt may come when a conversion is just done

/// A file of at least this size whose name begins so. OutputFile writes to "<path>.part-<pid>" first.
bool has_file(const std::filesystem::path& directory, const std::string& prefix, uintmax_t bytes) {
  const std::filesystem::directory_iterator entries(directory);
  return std::any_of(begin(entries), end(entries), [&](const std::filesystem::directory_entry& entry) {
    std::error_code gone;
    const uintmax_t size = entry.file_size(gone);
    return entry.path().filename().string().starts_with(prefix) && !gone && size >= bytes;
  });
}

std::string repeated(const std::string& text, int64_t times) {
  std::string all;
  for (int64_t i = 0; i < times; ++i) all += text;
  return all;
}

/// A checkpoint that takes a while to convert: 10 M weights in the experts.
void write_larger_checkpoint(const std::filesystem::path& directory) {
  TinyCheckpointOptions options;
  options.config.layers = 8;
  options.config.d_expert = 256;
  Random random(1);
  std::filesystem::create_directory(directory);
  write_tiny_checkpoint(directory, options, random);
}

/// The parameter is the signal.
class Interrupt : public ::testing::TestWithParam<int> {
 protected:
  static ProgramOptions when(std::function<bool(const ProgramResult& so_far)> condition) {
    ProgramOptions options;
    options.interrupt_when = std::move(condition);
    options.interrupt_with = GetParam();
    return options;
  }
};

/// Interrupts it as soon as its output begins to be written.
void expect_nothing_converted(const TemporaryDirectory& directory, const Arguments& arguments, int signal) {
  const std::string before = directory.listing();
  ProgramOptions options;
  options.interrupt_when = [&](const ProgramResult& /*so_far*/) {
    return has_file(directory.path(), "out.gguf.part", 1);
  };
  options.interrupt_with = signal;
  ProgramResult result;
  for (int i = 0; i < kTries && result.exit_code != kInterrupted; ++i) {
    std::filesystem::remove(directory / "out.gguf");
    result = run_sluice(arguments, options);
  }
  EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(result.err.ends_with((directory / "out.gguf").string() + ": interrupted, nothing written\n"))
      << result.err;
  EXPECT_EQ(directory.listing(), before);
}

TEST_P(Interrupt, ConvertLeavesNothing) {
  const TemporaryDirectory directory;
  const std::filesystem::path checkpoint = directory / "checkpoint";
  write_larger_checkpoint(checkpoint);
  expect_nothing_converted(
      directory, {"convert", checkpoint.string(), (directory / "out.gguf").string(), "--type", "nvfp4"},
      GetParam());
}

TEST_P(Interrupt, QuantizeLeavesNothing) {
  const TemporaryDirectory directory;
  const std::filesystem::path checkpoint = directory / "checkpoint";
  const std::string model = (directory / "model.gguf").string();
  write_larger_checkpoint(checkpoint);
  ASSERT_EQ(run_sluice({"convert", checkpoint.string(), model, "--type", "bf16"}).exit_code, 0);
  expect_nothing_converted(directory, {"quantize", model, (directory / "out.gguf").string(), "nvfp4"},
                           GetParam());
}

TEST_P(Interrupt, SynthLeavesNothing) {
  const TemporaryDirectory directory;
  expect_nothing_converted(directory,
                           {"synth", (directory / "out.gguf").string(), "--preset", "tiny", "--moe-layers",
                            "8", "--experts", "256"},
                           GetParam());
}

TEST_P(Interrupt, LogitsLeaveNothing) {
  const TemporaryDirectory directory;
  const std::filesystem::path dump = directory / "dump";
  std::filesystem::create_directory(dump);
  const std::string before = directory.listing();
  const int64_t n_tokens = 100000;
  // Larger than any buffer: then the work has begun.
  ProgramOptions options = when(
      [&](const ProgramResult& /*so_far*/) { return has_file(directory.path(), "out.npy.part", 100000); });
  options.input = repeated("7 ", n_tokens);
  const ProgramResult result = run_sluice(
      {"logits", "-m", tiny_chat_model().string(), "--ids-file", "-", "--last", std::to_string(n_tokens),
       "--out", (directory / "out.npy").string(), "--dump", "layers", "--dump-dir", dump.string()},
      options);
  EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(result.err.ends_with((directory / "out.npy").string() + ": interrupted, nothing written\n"))
      << result.err;
  EXPECT_EQ(directory.listing(), before);
  EXPECT_TRUE(std::filesystem::is_empty(dump));
}

ProgramResult interrupted_perplexity(const Arguments& more, const ProgramOptions& options) {
  Arguments arguments{"perplexity", "-m", tiny_chat_model().string(), "-f", "-", "-c", "64"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_sluice(arguments, options);
}

TEST_P(Interrupt, PerplexityTellsWhatItHas) {
  ProgramOptions options =
      when([](const ProgramResult& so_far) { return so_far.out.find("[2]") != std::string::npos; });
  options.input = repeated("the end in ", 200000);
  const ProgramResult result = interrupted_perplexity({}, options);
  EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
  EXPECT_TRUE(result.out.starts_with("[1]")) << result.out;
  EXPECT_NE(result.out.find("\nFinal estimate: PPL = "), std::string::npos) << result.out;
  EXPECT_TRUE(result.out.ends_with("tokens)\n")) << result.out;
  EXPECT_NE(result.err.find("interrupted after "), std::string::npos) << result.err;
  EXPECT_TRUE(result.err.ends_with(" windows\n")) << result.err;
}

TEST_P(Interrupt, PerplexityAsJsonSaysThatItIsIncomplete) {
  // Windows show nowhere but in the progress line.
  ProgramOptions options =
      when([](const ProgramResult& so_far) { return so_far.err.find("window ") != std::string::npos; });
  options.input = repeated("the end in ", 200000);
  const ProgramResult result = interrupted_perplexity({"--json"}, options);
  EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("complete"), false);
  EXPECT_GT(json.at("windows").get<int64_t>(), 0);
  EXPECT_LT(json.at("windows").get<int64_t>(), json.at("windows_in_text").get<int64_t>());
}

TEST_P(Interrupt, RunEndsItsLine) {
  const ProgramOptions options = when([](const ProgramResult& so_far) { return so_far.out.size() > 20; });
  const ProgramResult result =
      run_sluice({"run", "-m", tiny_chat_model().string(), "--temp", "0", "-p", "the"}, options);
  EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
  EXPECT_TRUE(result.out.ends_with('\n'));
  EXPECT_TRUE(result.err.starts_with("prompt ")) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

TEST_P(Interrupt, RunStopsWhileItReadsThePrompt) {
  ProgramOptions options = when([](const ProgramResult& so_far) { return !so_far.err.empty(); });
  options.input = repeated("xy", 90000);
  const ProgramResult result = run_sluice({"run", "-m", tiny_chat_model().string()}, options);
  EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err.find("error"), std::string::npos) << result.err;
  const std::regex last_line("prompt: interrupted after [1-9][0-9]* of 180001 tokens\n$");
  EXPECT_TRUE(std::regex_search(result.err, last_line)) << result.err;
}

TEST_P(Interrupt, ChatEndsItsAnswer) {
  const ProgramOptions options = when([](const ProgramResult& so_far) { return so_far.out.size() > 20; });
  const ProgramResult result =
      run_sluice({"chat", "-m", tiny_chat_model().string(), "--temp", "0", "-p", "the"}, options);
  EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
  EXPECT_TRUE(result.out.ends_with('\n'));
  EXPECT_TRUE(result.err.starts_with("Stopped.\nprompt ")) << result.err;
}

TEST_P(Interrupt, BenchClosesItsTable) {
  const ProgramOptions options = when([](const ProgramResult& so_far) { return !so_far.out.empty(); });
  const ProgramResult result = run_sluice({"bench", "-m", tiny_chat_model().string(), "-p", "64", "-n", "0",
                                           "-d", "0-999", "-r", "1", "-o", "json"},
                                          options);
  EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
  const nlohmann::json rows = nlohmann::json::parse(result.out);
  EXPECT_GE(rows.size(), 1U);
  EXPECT_LT(rows.size(), 1000U);
  EXPECT_TRUE(result.err.ends_with("interrupted after " + std::to_string(rows.size()) + " of 1000 rows\n"))
      << result.err;
}

// 1.7 GB of experts take a second at least, and little of it is touched before the signal comes.
constexpr const char* kManyExperts = "synth:tiny,dense=0,moe=2,type=q8_0,dense_type=q8_0,seed=1,experts=4096";

ProgramResult interrupted_loading(const Arguments& command, int signal) {
  ProgramOptions options;
  options.interrupt_when = [](const ProgramResult& so_far) {
    return so_far.err.find("loading the experts") != std::string::npos;
  };
  options.interrupt_with = signal;
  Arguments arguments = command;
  arguments.insert(arguments.end(), {"-m", kManyExperts, "--log-level", "info"});
  return run_sluice(arguments, options);
}

TEST_P(Interrupt, LoadingExpertsStops) {
  const TemporaryDirectory directory;
  const Arguments commands[] = {
      {"run", "-p", "the"},
      {"chat", "-p", "the"},
      {"bench", "-p", "4", "-n", "0"},
      {"logits", "--ids", "1", "--out", (directory / "out.npy").string()},
      {"perplexity", "-f", (source_directory() / "README.md").string()},
  };
  for (const Arguments& command : commands) {
    SCOPED_TRACE(command.front());
    const ProgramResult result = interrupted_loading(command, GetParam());
    EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_TRUE(result.err.ends_with(std::string(kManyExperts) + ": interrupted while it was loaded\n"))
        << result.err;
  }
  EXPECT_EQ(directory.listing(), "");
}

/// Programs that are started while it lives have one processor, as this thread.
class OneProcessor {
 public:
  OneProcessor() {
    sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
    sched_setaffinity(0, sizeof one, &one);
  }
  ~OneProcessor() { sched_setaffinity(0, sizeof before_, &before_); }
  OneProcessor(const OneProcessor&) = delete;
  OneProcessor& operator=(const OneProcessor&) = delete;

 private:
  cpu_set_t before_{};
};

// So many layers that one processor takes seconds; the line that says how far it is appears before.
TEST(InterruptTerminal, GeneratingWeightsStops) {
  const std::string model = "synth:tiny,dense=1024,moe=0,type=bf16,dense_type=bf16";
  const OneProcessor slow;
  TerminalProgram program({"run", "-p", "a", "-m", model}, {});
  ASSERT_TRUE(program.wait_for("generated")) << program.shown();
  program.type("\x03");
  EXPECT_TRUE(program.wait_for(model + ": interrupted while it was loaded")) << program.shown();
  EXPECT_EQ(program.wait_for_exit(), kInterrupted);
}

INSTANTIATE_TEST_SUITE_P(Signals, Interrupt, ::testing::Values(SIGINT, SIGTERM),
                         [](const auto& signal) { return signal.param == SIGINT ? "CtrlC" : "Terminate"; });

TEST(InterruptSignals, HangingUpLeavesNothing) {
  const TemporaryDirectory directory;
  const std::filesystem::path checkpoint = directory / "checkpoint";
  write_larger_checkpoint(checkpoint);
  expect_nothing_converted(
      directory, {"convert", checkpoint.string(), (directory / "out.gguf").string(), "--type", "nvfp4"},
      SIGHUP);
}

/// A signal after the first window; `ignored` is what the shell that starts the program has ignored.
ProgramResult signalled_perplexity(const std::string& ignored, int signal, const std::string& windows) {
  ProgramOptions options;
  options.input = repeated("the end in ", 200000);
  options.program = "sh";
  options.interrupt_when = [](const ProgramResult& so_far) {
    return so_far.out.find("[1]") != std::string::npos;
  };
  options.interrupt_with = signal;
  return run_sluice({"-c", "trap '' " + ignored + "; exec \"$0\" \"$@\"", sluice_program(), "perplexity",
                     "-m", tiny_chat_model().string(), "-f", "-", "-c", "64", "--chunks", windows},
                    options);
}

TEST(InterruptSignals, WhatWasIgnoredStaysIgnored) {
  for (const auto& [name, number] : {std::pair("INT", SIGINT), {"TERM", SIGTERM}, {"HUP", SIGHUP}}) {
    const ProgramResult result = signalled_perplexity(name, number, "50");
    EXPECT_EQ(result.exit_code, 0) << name << ": " << result.err;
    EXPECT_NE(result.out.find("[50]"), std::string::npos) << name;
  }
}

TEST(InterruptSignals, AnIgnoredOneLeavesTheOthersAtWork) {
  EXPECT_EQ(signalled_perplexity("INT", SIGTERM, "-1").exit_code, kInterrupted);
  EXPECT_EQ(signalled_perplexity("TERM HUP", SIGINT, "-1").exit_code, kInterrupted);
}

}  // namespace
}  // namespace sluice::testing
