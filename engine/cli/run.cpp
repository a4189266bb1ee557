// BOS and the text go in; what the model continues with comes out as text or as one JSON object.
#include "engine/cli/run.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/cli/answer_printer.h"
#include "engine/cli/common_options.h"
#include "engine/cli/interrupt.h"
#include "engine/cli/model_loading.h"
#include "engine/cli/runtime_notice.h"
#include "engine/cli/terminal.h"
#include "engine/cli/whole_number.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

enum class Format { kText, kJson };

struct RunOptions {
  ModelOptions model;
  ComputeOptions compute;
  SamplingOptions sampling;
  PromptOptions prompt;
  int64_t max_tokens = -1;
  bool special = false;
  bool echo = false;
  bool json = false;
  bool ignore_eos = false;
};

std::vector<int32_t> prompt_ids(const Tokenizer& tokenizer, const RunOptions& options,
                                const std::string& text) {
  std::vector<int32_t> ids;
  if (tokenizer.data().bos.has_value()) ids.push_back(*tokenizer.data().bos);
  const std::vector<int32_t> encoded =
      tokenizer.encode(text, options.special ? SpecialTokens::kParse : SpecialTokens::kAsText);
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  return ids;
}

const char* reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfGeneration:
      return "end_of_generation";
    case StopReason::kMaxTokens:
      return "max_tokens";
    case StopReason::kContextFull:
      return "context_full";
    case StopReason::kStopped:
      return "stopped";
  }
  return "";
}

// Text as it comes (unless JSON waits for all of it); returns it all.
GenerateReport generate(Session& session, const RunOptions& options, Format format,
                        const std::stop_token& stop, std::string& text) {
  StreamDecoder decoder(session.runtime().model().tokenizer());
  const auto say = [&](const std::string& piece) {
    text += piece;
    if (format == Format::kText) write_all(STDOUT_FILENO, piece);
  };
  GenerateOptions generate_options;
  generate_options.max_tokens = options.max_tokens;
  generate_options.ignore_eos = options.ignore_eos;
  generate_options.stop = stop;
  generate_options.on_token = [&](int32_t id) {
    say(decoder.push(id));
    return true;
  };
  Sampler sampler(options.sampling.resolve(options.model));
  GenerateReport report = session.generate(sampler, generate_options);
  say(decoder.finish());
  return report;
}

std::string json_report(const std::string& text, const PrefillReport& prefill,
                        const GenerateReport& generated) {
  const auto count = static_cast<int64_t>(generated.ids.size());
  const nlohmann::ordered_json json{
      {"prompt_tokens", prefill.tokens},
      {"text", text},
      {"ids", generated.ids},
      {"stop_reason", reason_name(generated.reason)},
      {"timings",
       {{"prompt_seconds", prefill.seconds},
        {"prompt_tokens_per_second", tokens_per_second(prefill.tokens - prefill.cached, prefill.seconds)},
        {"generated_seconds", generated.seconds},
        {"generated_tokens_per_second", tokens_per_second(count, generated.seconds)}}}};
  return json.dump() + "\n";
}

int continue_text(Session& session, Interrupts& interrupts, const RunOptions& options) {
  const Format format = options.json ? Format::kJson : Format::kText;
  const std::string prompt = options.prompt.read();
  RuntimeNotice notice(session.runtime());
  const StoppableWork work(interrupts);
  ProgressLine progress;
  const PrefillReport prefill = session.prefill(
      prompt_ids(session.runtime().model().tokenizer(), options, prompt),
      [&](int64_t done, int64_t total) { progress.show(prefill_text(done, total)); }, work.token());
  progress.clear();
  if (!prefill.completed) {
    write_all(STDERR_FILENO, fmt::format("prompt: interrupted after {} of {} tokens\n",
                                         session.tokens().size(), prefill.tokens));
    return kInterruptedExit;
  }
  std::string text = options.echo ? prompt : std::string();
  if (format == Format::kText) write_all(STDOUT_FILENO, text);
  const GenerateReport generated = generate(session, options, format, work.token(), text);
  write_all(STDOUT_FILENO, format == Format::kJson ? json_report(text, prefill, generated) : "\n");
  notice.tell();
  write_all(STDERR_FILENO, timing_line(prefill, generated) + "\n");
  return work.token().stop_requested() ? kInterruptedExit : 0;
}

int run(const RunOptions& options) {
  if (!options.prompt.given() && is_terminal(STDIN_FILENO)) {
    throw CLI::RequiredError("-p/--prompt, -f/--file or a text on standard input");
  }
  Interrupts interrupts;
  static_cast<void>(options.sampling.resolve(options.model));  // wrong values are told before a long load
  const Model model = load_model(options.model, interrupts);
  static_cast<void>(model.tokenizer());  // says what is missing
  Runtime runtime =
      make_runtime(model, options.compute.runtime(model, options.compute.context_for(model)), interrupts);
  spdlog::info("{}", runtime.description());
  Session session(runtime, options.compute.context_for(model), options.compute.cache_type);
  return continue_text(session, interrupts, options);
}

}  // namespace

void add_run_command(CLI::App& app, int& exit_code) {
  const auto options = std::make_shared<RunOptions>();  // CLI11 copies the callback
  CLI::App* const command = app.add_subcommand("run", "Continue a text");
  command->footer("Example:\n  sluice run -p \"Once upon a time\" -n 50 --json");
  options->model.add_to(*command);
  options->prompt.add_to(*command);
  take_whole_number(command->add_option("-n,--predict", options->max_tokens,
                                        "Tokens at most; -1 = until the context is full (default -1)"),
                    -1);
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->add_flag("--echo", options->echo, "Print the prompt, too");
  command->add_flag("--special", options->special,
                    "Read markers such as <think> in the prompt as the tokens they name");
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after the end of the text");
  options->compute.add_to(*command);
  options->sampling.add_to(*command);
  let_last_value_win(*command);
  command->callback([options, &exit_code] { exit_code = run(*options); });
}

}  // namespace sluice::cli
