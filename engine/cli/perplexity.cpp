// Runs the windows of a text and prints the running and the final value.
#include "engine/cli/perplexity.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cli/choices.h"
#include "engine/cli/common_options.h"
#include "engine/cli/input_data.h"
#include "engine/cli/interrupted.h"
#include "engine/cli/model_loading.h"
#include "engine/cli/runtime_notice.h"
#include "engine/cli/terminal.h"
#include "engine/cli/whole_number.h"
#include "engine/perplexity.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int64_t kDefaultContext = 512;  // llama.cpp's

struct PerplexityOptions {
  ModelOptions model;
  ComputeOptions compute;
  std::string file;
  int64_t chunks = -1;  // -1 = all
  ScoreProtocol protocol = ScoreProtocol::kHalf;
  bool json = false;
};

/// What was scored so far.
struct Outcome {
  NllSum sum;
  std::vector<double> window_means;
  double seconds = 0;
  bool interrupted = false;
};

PerplexityWindows cut_text(const Model& model, const PerplexityOptions& options) {
  const Tokenizer& tokenizer = model.tokenizer();
  const int64_t context = options.compute.context_for(model);
  if (context > model.config().context_length) {
    throw Error("-c/--ctx-size", fmt::format("at most the model's {} tokens", model.config().context_length),
                fmt::format("{}", context));
  }
  if (!tokenizer.data().bos.has_value()) {
    throw Error(model.path().string(), "a tokenizer with a BOS token to begin each window", "none");
  }
  return PerplexityWindows(tokenizer.encode(read_all(options.file), SpecialTokens::kAsText),
                           *tokenizer.data().bos, context, options.protocol,
                           options.file == "-" ? "standard input" : options.file);
}

/// Standard error's part: a line that is rewritten, unless the running values stand on the same terminal,
/// where one line after the first window has to do.
void show_progress(ProgressLine& line, int64_t done, int64_t total, double seconds, bool values_on_terminal) {
  const double each = seconds / static_cast<double>(done);
  const std::string text = fmt::format("window {} of {}, {:.2f} s each, {:.0f} s left", done, total, each,
                                       each * static_cast<double>(total - done));
  if (!values_on_terminal) {
    line.show(text);
  } else if (done == 1) {
    fmt::print(stderr, "{}\n", text);
  }
}

Outcome score(Runtime& runtime, const PerplexityWindows& windows, int64_t count,
              const PerplexityOptions& options, const std::stop_token& stop) {
  Outcome outcome;
  const std::unique_ptr<KvCache> cache =
      runtime.make_cache(static_cast<int64_t>(windows.window(0).ids.size()), options.compute.cache_type);
  ProgressLine line;
  const Clock::time_point start = Clock::now();
  for (int64_t i = 0; i < count; ++i) {
    const std::optional<NllSum> window = score_window(runtime, *cache, windows.window(i), stop);
    if (!window.has_value()) {
      outcome.interrupted = true;
      break;
    }
    outcome.sum.add(*window);
    outcome.window_means.push_back(window->mean());
    outcome.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    show_progress(line, i + 1, count, outcome.seconds, !options.json && is_terminal(STDOUT_FILENO));
    if (!options.json) {
      write_all(STDOUT_FILENO, fmt::format("[{}]{:.4f},", i + 1, outcome.sum.perplexity()));
    }
  }
  return outcome;
}

void print_text(const NllSum& sum) {
  write_all(
      STDOUT_FILENO,
      fmt::format("\nFinal estimate: PPL = {:.4f} +/- {:.4f} (mean NLL {:.6f} +/- {:.6f} over {} tokens)\n",
                  sum.perplexity(), sum.perplexity_error(), sum.mean(), sum.mean_error(), sum.count()));
}

void print_json(const Model& model, const PerplexityWindows& windows, const Outcome& outcome,
                const PerplexityOptions& options) {
  const ordered_json result{{"model", model.path().string()},
                            {"file", options.file},
                            {"score", score_protocol_name(options.protocol)},
                            {"attention", attention_mode_name(options.compute.attention)},
                            {"context", options.compute.context_for(model)},
                            {"windows", outcome.window_means.size()},
                            {"windows_in_text", windows.count()},
                            {"tokens_scored", outcome.sum.count()},
                            {"mean_nll", outcome.sum.mean()},
                            {"mean_nll_error", outcome.sum.mean_error()},
                            {"ppl", outcome.sum.perplexity()},
                            {"ppl_error", outcome.sum.perplexity_error()},
                            {"window_mean_nll", outcome.window_means},
                            {"seconds", outcome.seconds},
                            {"complete", !outcome.interrupted}};
  write_all(STDOUT_FILENO, result.dump(2, ' ', false, ordered_json::error_handler_t::replace) + '\n');
}

void perplexity(const PerplexityOptions& options) {
  Interrupts interrupts;
  const Model model = load_model(options.model, interrupts);
  const PerplexityWindows windows = cut_text(model, options);
  const int64_t count = options.chunks < 0 ? windows.count() : std::min(options.chunks, windows.count());
  const RuntimeOptions how =
      options.compute.runtime(model, static_cast<int64_t>(windows.window(0).ids.size()));
  Runtime runtime = make_runtime(model, how, interrupts);
  spdlog::info("{}", runtime.description());
  RuntimeNotice notice(runtime);
  const StoppableWork work(interrupts);
  const Outcome outcome = score(runtime, windows, count, options, work.token());
  notice.tell();
  if (options.json) {
    print_json(model, windows, outcome, options);
  } else if (outcome.sum.count() > 0) {
    print_text(outcome.sum);
  }
  if (outcome.interrupted) {
    fmt::print(stderr, "{}: interrupted after {} of {} windows\n", options.file, outcome.window_means.size(),
               count);
    throw Interrupted();
  }
}

/// What is wrong with this value of --chunks, a whole number from -1 up.
std::string refuse_zero(const std::string& text) {
  if (text != "0") return {};
  return "expected -1 or a number above 0, found 0";
}

}  // namespace

void add_perplexity_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("perplexity", "Measure how well the model predicts a text");
  const auto options = std::make_shared<PerplexityOptions>();  // shared because CLI11 copies callbacks
  options->model.add_to(*command);
  options->compute.context = kDefaultContext;
  options->compute.add_to(*command);
  command->get_option("--ctx-size")->description("Tokens per window; 0 = the model's context (default 512)");
  command->add_option("-f,--file", options->file, "Text to score; - is standard input")->required();
  take_whole_number(
      command->add_option("--chunks", options->chunks, "Score this many windows; -1 = all (default -1)"), -1)
      ->check(CLI::Validator(refuse_zero, ""));
  const Choices<ScoreProtocol> protocols{{score_protocol_name(ScoreProtocol::kHalf), ScoreProtocol::kHalf},
                                         {score_protocol_name(ScoreProtocol::kAll), ScoreProtocol::kAll}};
  take_words(command->add_option(
                 "--score", options->protocol,
                 "half: llama.cpp's protocol, the second half of each window counts; all: windows of BOS and "
                 "c - 1 tokens, everything counts (default half)"),
             protocols);
  command->add_flag("--json", options->json, "One JSON object with the mean of every window");
  command->footer("Example: sluice perplexity -f book.txt -c 2048 --attention sparse");
  command->callback([options] { perplexity(*options); });
}

}  // namespace sluice::cli
