// llama.cpp's llama-bench and `sluice bench` on the same synthetic file, with the same threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace sluice::bench {

/// Tokens per second.
struct ModelSpeed {
  double prefill = 0;     // of 512 tokens
  double generation = 0;  // of 32 tokens
};

/// Runs `program` [`subcommand`] -m model -p 512 -n 32 -r 3 -t threads -o json and reads its averages; both
/// programs take these and answer in the same keys. Throws Error when it cannot be run, fails or answers
/// otherwise.
ModelSpeed measure_program(const std::filesystem::path& program, const std::string& subcommand,
                           const std::filesystem::path& model, int64_t threads);

/// One row of a llama-bench, or of `sluice bench`.
struct PromptSpeed {
  int64_t prompt = 0;  // tokens
  int64_t ubatch = 0;
  double tokens_per_second = 0;
};

/// Runs `program` [`subcommand`] -m model `arguments` -n 0 -o json and reads its rows. Throws Error as above.
std::vector<PromptSpeed> measure_prompts(const std::filesystem::path& program, const std::string& subcommand,
                                         const std::filesystem::path& model, const std::string& arguments);

}  // namespace sluice::bench
