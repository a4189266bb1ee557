// Declares the shared flags and turns their values into what the engine takes.
#include "engine/cli/common_options.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <random>
#include <system_error>

#include "engine/cli/choices.h"
#include "engine/cli/whole_number.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

constexpr const char* kEmbeddedModel = "tiny.gguf";

template <typename Stream>
std::string read_stream(Stream& stream, const std::string& name) {
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (stream.bad()) throw Error(name, "a readable text", "an error while reading");
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

}  // namespace

void ModelOptions::add_to(CLI::App& app) {
  app.add_option(
      "-m,--model", path,
      "Model file (GGUF), or synth:PRESET,... for random weights (sluice synth --help); without it, the "
      "small model that comes with the program");
}

std::filesystem::path installed_data_directory() {
  std::error_code failure;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", failure);
  if (failure) return {};
  return program.parent_path().parent_path() / SLUICE_INSTALL_DATA_SUBDIR;
}

std::filesystem::path embedded_model_path() {
  std::filesystem::path source = std::filesystem::path(SLUICE_SOURCE_MODELS_DIR) / kEmbeddedModel;
  std::filesystem::path installed = installed_data_directory() / "models" / kEmbeddedModel;
  std::error_code ignored;
  // An installed program takes what it came with, even where its sources still lie.
  if (std::filesystem::exists(installed, ignored)) return installed;
  if (std::filesystem::exists(source, ignored)) return source;
  throw Error("embedded model",
              fmt::format("it at {} or {} (-m names another)", installed.string(), source.string()),
              "no file at either place");
}

void ExpertOptions::add_to(CLI::App& app) {
  app.add_flag("--exact", exact,
               "Multiply weights with float32 activations instead of int8 ones, or bf16 ones on a GPU; "
               "slower");
  app.add_flag("--mmap", mmap,
               "Leave the experts in the mapped file instead of loading them: for models larger than memory");
  app.add_flag("--check-tensors", check_tensors,
               "Refuse a model with infinity or NaN in any weight or scale; reads all of it at the start");
  take_words(
      app.add_option("--numa", numa,
                     "Experts divided among the memory nodes of the machine, in any memory, or page by "
                     "page in all (default auto)"),
      numa_choices());
}

void ExpertOptions::apply_to(RuntimeOptions& options) const {
  options.activations = exact ? Activations::kFloat32 : Activations::kInt8;
  options.expert_memory = mmap ? ExpertMemory::kMapped : ExpertMemory::kLoaded;
  options.numa = numa;
  options.check_tensors = check_tensors;
}

void ComputeOptions::add_to(CLI::App& app) {
  take_whole_number(
      app.add_option("-c,--ctx-size", context, "Context in tokens; 0 = the model's (default 0)"), 0);
  take_whole_number(app.add_option("-t,--threads", threads, "Threads; 0 = all physical cores (default 0)"),
                    0);
  take_whole_number(
      app.add_option(
          "-b,--batch-size", max_batch,
          "Tokens per forward pass: experts that a GPU computes are copied or read once for all of them; 0 = "
          "what a GPU has room for, else -ub (default 0)"),
      0);
  take_whole_number(app.add_option("--ubatch-size", tile,
                                   "Also -ub. Tokens of a pass that are computed at a time (default 512)"),
                    1);
  take_words(app.add_option("--prefill", prefill,
                            "With a GPU, who computes experts in memory for many tokens: the CPU, the GPU to "
                            "which they are copied, or what is fastest (default auto)"),
             prefill_choices());
  take_words(
      app.add_option("--cache-type-k", cache_type,
                     "Also -ctk. Type of the attention cache, latents and the indexer's keys (default bf16)"),
      cache_type_choices());
  take_words(
      app.add_option("--attention", attention, "Sparse attends to what the indexer selects (default sparse)"),
      attention_choices());
  experts.add_to(app);
  placement.add_to(app);
  expert_cache.add_to(app);
}

RuntimeOptions ComputeOptions::runtime(const Model& model, int64_t tokens) const {
  RuntimeOptions options;
  options.threads = threads;
  options.max_batch = max_batch;
  options.tile = tile;
  options.prefill = prefill;
  options.attention = attention;
  placement.apply_to(options, model);
  options.planned_context = tokens;
  options.planned_cache = cache_type;
  experts.apply_to(options);
  fill_gpu(options, model, expert_cache, placement.places_experts());
  return options;
}

int64_t ComputeOptions::context_for(const Model& model) const {
  return context == 0 ? model.config().context_length : context;
}

void SamplingOptions::add_to(CLI::App& app) {
  const char* const group = "Sampling";
  constexpr int64_t kAny = std::numeric_limits<int64_t>::min();  // SamplingParams::check knows what is right
  take_whole_number(app.add_option("-s,--seed", seed, "Seed; negative = a fresh one every time (default -1)"),
                    kAny)
      ->group(group);
  app.add_option("--temp", temperature,
                 "Temperature; 0 = always the likeliest token (default 1; without -m 0.7)")
      ->group(group);
  take_whole_number(
      app.add_option("--top-k", params.top_k, "Keep the K likeliest tokens; 0 = all (default 0)"), kAny)
      ->group(group);
  app.add_option("--top-p", params.top_p, "Keep tokens up to this summed probability; 1 = all (default 0.95)")
      ->group(group);
  app.add_option("--min-p", params.min_p,
                 "Drop tokens less likely than this share of the likeliest (default 0)")
      ->group(group);
  app.add_option("--repeat-penalty", params.repeat_penalty,
                 "Divide logits of recent tokens; 1 = off (default 1)")
      ->group(group);
  take_whole_number(app.add_option("--repeat-last-n", params.repeat_last_n,
                                   "Tokens the penalty looks back on; -1 = all (default 64)"),
                    kAny)
      ->group(group);
}

SamplingParams SamplingOptions::resolve(const ModelOptions& model) const {
  SamplingParams resolved = params;
  resolved.temperature = temperature.value_or(model.embedded() ? 0.7F : 1.0F);
  resolved.seed = seed < 0 ? std::random_device{}() : static_cast<uint64_t>(seed);
  resolved.check();
  return resolved;
}

void PromptOptions::add_to(CLI::App& app) {
  CLI::Option* const prompt = app.add_option("-p,--prompt", text, "The prompt");
  app.add_option("-f,--file", file, "Read the prompt from a file; - is standard input")->excludes(prompt);
}

std::string PromptOptions::read() const {
  if (text.has_value()) return *text;
  if (file.empty() || file == "-") return read_stream(std::cin, "standard input");
  if (std::filesystem::is_directory(file)) throw Error(file, "a text file", "a directory");
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw Error(file, "a readable file", system_error_text(errno));
  return read_stream(stream, file);
}

void let_last_value_win(CLI::App& command) {
  for (CLI::Option* const option : command.get_options()) {
    if (option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll) continue;
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
}

void add_log_level(CLI::App& app) {
  app.add_option_function<std::string>(
         "--log-level", [](const std::string& level) { spdlog::set_level(spdlog::level::from_str(level)); },
         "How much to tell on standard error (default warning)")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "off"}).description(""))
      ->type_name("trace|debug|info|warning|error|off");
}

}  // namespace sluice::cli
