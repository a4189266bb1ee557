// Flags that several commands share, and what they become: a loaded model, runtime options, sampling
// parameters.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "engine/cli/placement.h"
#include "engine/engine.h"

namespace sluice::cli {

/// -m/--model: a file or a synth:... text. Without it, the model that comes with the program.
struct ModelOptions {
  std::string path;

  void add_to(CLI::App& app);
  [[nodiscard]] bool embedded() const { return path.empty(); }
};

/// Where the installation keeps what comes with the program; it may not be there.
std::filesystem::path installed_data_directory();

/// models/tiny.gguf of the installation, else next to the sources. Throws Error naming both places.
std::filesystem::path embedded_model_path();

/// --exact, --mmap, --numa, --check-tensors: how the routed experts are kept and computed.
struct ExpertOptions {
  bool exact = false;
  bool mmap = false;
  bool check_tensors = false;
  NumaMode numa = NumaMode::kAuto;

  void add_to(CLI::App& app);
  void apply_to(RuntimeOptions& options) const;
};

/// -c, -t, -b, -ub, --prefill, -ctk, --attention, --exact, --mmap, --numa, --check-tensors, and where it is
/// computed.
struct ComputeOptions {
  int64_t context = 0;    // tokens; 0 = the model's
  int64_t threads = 0;    // 0 = all physical cores
  int64_t max_batch = 0;  // -b; 0 = chosen
  int64_t tile = 512;     // -ub
  Prefill prefill = Prefill::kAuto;
  CacheType cache_type = CacheType::kBF16;
  AttentionMode attention = AttentionMode::kSparse;
  ExpertOptions experts;
  PlacementOptions placement;
  ExpertCacheOption expert_cache;

  void add_to(CLI::App& app);
  /// For a cache of `tokens` tokens, free GPU memory filled with experts where no flag places them
  /// (fill_gpu). Throws Error as PlacementOptions::apply_to and fill_gpu do.
  [[nodiscard]] RuntimeOptions runtime(const Model& model, int64_t tokens) const;
  /// Tokens of context to reserve for `model`.
  [[nodiscard]] int64_t context_for(const Model& model) const;
};

/// -s, --temp, --top-k, --top-p, --min-p, --repeat-penalty, --repeat-last-n.
struct SamplingOptions {
  SamplingParams params;             // all but temperature and seed
  std::optional<float> temperature;  // default: 1, of the embedded model 0.7
  int64_t seed = -1;                 // negative: a fresh one every time

  void add_to(CLI::App& app);
  /// Throws Error naming the flag when a value is out of its range.
  [[nodiscard]] SamplingParams resolve(const ModelOptions& model) const;
};

/// -p/--prompt and -f/--file.
struct PromptOptions {
  std::optional<std::string> text;
  std::string file;  // "-" = standard input

  void add_to(CLI::App& app);
  [[nodiscard]] bool given() const { return text.has_value() || !file.empty(); }
  /// The text; of a file or standard input without the line break at its end. Throws Error.
  [[nodiscard]] std::string read() const;
};

/// Of a flag that is given twice the last value counts, so that a script can add to a user's flags; but of
/// those that take all (-ot). Call it after they are added.
void let_last_value_win(CLI::App& command);

/// --log-level, which takes effect as soon as it is parsed.
void add_log_level(CLI::App& app);

}  // namespace sluice::cli
