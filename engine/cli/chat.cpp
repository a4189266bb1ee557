// Flags of `chat`, and the choice between talking and a single answer.
#include "engine/cli/chat.h"

#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "engine/cli/answer_printer.h"
#include "engine/cli/chat_loop.h"
#include "engine/cli/common_options.h"
#include "engine/cli/conversation.h"
#include "engine/cli/interrupt.h"
#include "engine/cli/model_loading.h"
#include "engine/cli/runtime_notice.h"
#include "engine/cli/terminal.h"
#include "engine/cli/whole_number.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

struct ChatOptions {
  ModelOptions model;
  ComputeOptions compute;
  SamplingOptions sampling;
  PromptOptions prompt;
  std::string system;
  int64_t max_tokens = -1;
  bool think = false;
  bool hide_thinking = false;

  [[nodiscard]] bool interactive() const { return !prompt.given() && is_terminal(STDIN_FILENO); }
  [[nodiscard]] ReasoningOutput reasoning() const {
    if (hide_thinking) return ReasoningOutput::kHidden;
    return interactive() ? ReasoningOutput::kStandardOutput : ReasoningOutput::kStandardError;
  }
};

void introduce(const Model& model, const Runtime& runtime, int64_t context) {
  const Colours colours(STDERR_FILENO);
  const std::string facts = fmt::format(
      "{}{}{}: {:.1f} M parameters, {}, {:.1f} MB, context {}\n{}\n", colours.bold(), model.config().name,
      colours.reset(), static_cast<double>(model.parameters()) / 1e6, model.type_name(),
      static_cast<double>(model.tensor_bytes()) / 1e6, context, runtime.description());
  write_all(STDERR_FILENO, facts);
}

// Nothing but the answer goes to standard output.
int answer_once(Conversation& conversation, Interrupts& interrupts, const ChatOptions& options) {
  const std::string prompt = options.prompt.read();
  if (prompt.empty()) throw Error("prompt", "a text", "nothing");
  conversation.add_user(prompt);
  RuntimeNotice slower(conversation.session().runtime());
  const StoppableWork work(interrupts);
  AnswerPrinter printer(options.reasoning());
  const AnswerReport report = conversation.answer(printer.sink(), work.token());
  printer.finish();
  const std::string notice = stop_notice(report, conversation.session().context());
  if (!notice.empty()) write_all(STDERR_FILENO, notice + "\n");
  slower.tell();
  write_all(STDERR_FILENO, timing_line(report.prefill, report.generated) + "\n");
  return work.token().stop_requested() ? kInterruptedExit : 0;
}

int chat(const ChatOptions& options) {
  Interrupts interrupts;
  const ChatSettings settings{options.sampling.resolve(options.model),
                              options.think ? Thinking::kOn : Thinking::kOff, options.max_tokens};
  const Model model = load_model(options.model, interrupts);
  Runtime runtime =
      make_runtime(model, options.compute.runtime(model, options.compute.context_for(model)), interrupts);
  Session session(runtime, options.compute.context_for(model), options.compute.cache_type);
  Conversation conversation(session, settings);
  conversation.set_system(options.system);
  if (!options.interactive()) return answer_once(conversation, interrupts, options);
  introduce(model, runtime, session.context());
  return ChatLoop(conversation, interrupts, options.reasoning()).run();
}

}  // namespace

void add_chat_command(CLI::App& app, int& exit_code) {
  const auto options = std::make_shared<ChatOptions>();  // CLI11 copies the callback
  CLI::App* const command = app.add_subcommand("chat", "Talk with a model");
  command->footer(
      "Without -p, -f and with a terminal as standard input the chat is interactive; else it gives one "
      "answer.\n"
      "Example:\n  sluice chat -p \"Tell me a story about a ship in a storm.\" --seed 1");
  options->model.add_to(*command);
  options->prompt.add_to(*command);
  command->add_option("--system", options->system, "Also -sys. System message");
  take_whole_number(command->add_option("-n,--predict", options->max_tokens,
                                        "Tokens of an answer at most; -1 = no limit (default -1)"),
                    -1);
  command->add_flag("--think,!--no-think", options->think,
                    "Let the model think before it answers (default: no)");
  command->add_flag("--hide-thinking", options->hide_thinking, "Do not show what it thinks");
  options->compute.add_to(*command);
  options->sampling.add_to(*command);
  let_last_value_win(*command);
  command->callback([options, &exit_code] { exit_code = chat(*options); });
}

}  // namespace sluice::cli
