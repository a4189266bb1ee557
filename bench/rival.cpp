#include "bench/rival.h"

#include <fmt/format.h>

#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/temporary_file.h"
#include "quant/base/error.h"

namespace sluice::bench {
namespace {

/// As one word of the shell.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    out += c == '\'' ? "'\\''" : std::string(1, c);
  }
  return out + "'";
}

/// The end of what a program said, to be read in an error.
std::string last_words(const std::filesystem::path& log) {
  std::ifstream file(log);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  constexpr size_t kMost = 600;
  return text.size() > kMost ? text.substr(text.size() - kMost) : text;
}

/// What the command writes to stdout. What it writes to stderr is told where it fails.
std::string output_of(const std::string& command) {
  const TemporaryFile log(std::filesystem::temp_directory_path() / fmt::format("rival-{}.log", getpid()));
  struct Close {
    void operator()(std::FILE* pipe) const { pclose(pipe); }
  };
  std::unique_ptr<std::FILE, Close> pipe(
      popen(fmt::format("{} 2>{}", command, quoted(log.path.string())).c_str(), "r"));
  if (pipe == nullptr) {
    throw Error(command, "a command that can be started", "popen failed");
  }
  std::string text;
  std::array<char, 4096> part;
  for (size_t n = 0; (n = std::fread(part.data(), 1, part.size(), pipe.get())) > 0;) {
    text.append(part.data(), n);
  }
  const int status = pclose(pipe.release());
  if (status != 0) {
    throw Error(command, "success", fmt::format("wait status {:#x} after: {}", status, last_words(log.path)));
  }
  return text;
}

}  // namespace

ModelSpeed measure_program(const std::filesystem::path& program, const std::string& subcommand,
                           const std::filesystem::path& model, int64_t threads) {
  const std::string command =
      fmt::format("{} {} -m {} -p 512 -n 32 -r 3 -t {} -o json", quoted(program.string()), subcommand,
                  quoted(model.string()), threads);
  const std::string text = output_of(command);
  ModelSpeed speed;
  try {
    for (const nlohmann::json& row : nlohmann::json::parse(text)) {
      (row.at("n_gen") == 0 ? speed.prefill : speed.generation) = row.at("avg_ts").get<double>();
    }
  } catch (const nlohmann::json::exception& error) {
    throw Error(command, "rows with n_gen and avg_ts in JSON", error.what());
  }
  if (speed.prefill <= 0 || speed.generation <= 0) {
    throw Error(command, "one row of prefill and one of generation", text);
  }
  return speed;
}

std::vector<PromptSpeed> measure_prompts(const std::filesystem::path& program, const std::string& subcommand,
                                         const std::filesystem::path& model, const std::string& arguments) {
  const std::string command = fmt::format("{} {} -m {} {} -n 0 -o json", quoted(program.string()), subcommand,
                                          quoted(model.string()), arguments);
  const std::string text = output_of(command);
  std::vector<PromptSpeed> speeds;
  try {
    for (const nlohmann::json& row : nlohmann::json::parse(text)) {
      speeds.push_back({.prompt = row.at("n_prompt").get<int64_t>(),
                        .ubatch = row.at("n_ubatch").get<int64_t>(),
                        .tokens_per_second = row.at("avg_ts").get<double>()});
    }
  } catch (const nlohmann::json::exception& error) {
    throw Error(command, "rows with n_prompt, n_ubatch and avg_ts in JSON", error.what());
  }
  return speeds;
}

}  // namespace sluice::bench
