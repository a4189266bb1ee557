// The loop around the line editor. Everything but answers goes to standard error.
#include "engine/cli/chat_loop.h"

#include <fmt/format.h>
#include <unistd.h>

#include <string_view>

#include "quant/base/error.h"

namespace sluice::cli {
namespace {

constexpr std::string_view kBlockMark = "\"\"\"";
constexpr const char* kPrompt = "> ";
constexpr const char* kBlockPrompt = ". ";

void say(std::string_view line) {
  write_all(STDERR_FILENO, fmt::format("{}\n", line));
}

void say_dimmed(std::string_view line) {
  const Colours colours(STDERR_FILENO);
  say(fmt::format("{}{}{}", colours.dim(), line, colours.reset()));
}

void say_error(const Error& error) {
  say(fmt::format("error: {}", error.what()));
}

}  // namespace

ChatLoop::ChatLoop(Conversation& conversation, Interrupts& interrupts, ReasoningOutput reasoning)
    : conversation_(conversation),
      interrupts_(interrupts),
      reasoning_(reasoning),
      commands_(conversation, say),
      editor_(ChatCommands::names(), history_path()),
      notice_(conversation.session().runtime()) {}

int ChatLoop::run() {
  say_dimmed("/help lists the commands, Ctrl-D leaves.");
  bool interrupted_before = false;
  while (true) {
    std::string message;
    bool is_block = false;
    const Input input = read_message(message, is_block);
    if (input == Input::kEnd) {
      say("");
      return 0;
    }
    if (input == Input::kInterrupted) {
      say("^C");
      if (interrupted_before) return kInterruptedExit;
      say_dimmed("Ctrl-C again leaves.");
    } else if (!message.empty() && !handle(message, is_block)) {
      return 0;
    }
    if (interrupts_.told_to_end()) return kInterruptedExit;
    interrupted_before = input == Input::kInterrupted;
  }
}

ChatLoop::Input ChatLoop::read_message(std::string& message, bool& is_block) {
  std::string line;
  switch (editor_.read(kPrompt, line)) {
    case LineEditor::Status::kEnd:
      return Input::kEnd;
    case LineEditor::Status::kInterrupted:
      return Input::kInterrupted;
    case LineEditor::Status::kLine:
      break;
  }
  is_block = line.starts_with(kBlockMark);
  if (is_block) return read_block(line.substr(kBlockMark.size()), message);
  message = line;
  return Input::kMessage;
}

ChatLoop::Input ChatLoop::read_block(std::string first_line, std::string& message) {
  std::string line = std::move(first_line);
  while (!line.ends_with(kBlockMark)) {
    if (!message.empty() || !line.empty()) message += line + "\n";
    switch (editor_.read(kBlockPrompt, line)) {
      case LineEditor::Status::kEnd:
        return Input::kEnd;
      case LineEditor::Status::kInterrupted:
        return Input::kInterrupted;
      case LineEditor::Status::kLine:
        break;
    }
  }
  message += line.substr(0, line.size() - kBlockMark.size());
  if (message.ends_with('\n')) message.pop_back();
  return Input::kMessage;
}

bool ChatLoop::handle(const std::string& message, bool is_block) {
  try {
    if (is_block || !message.starts_with('/')) {
      ask(message);
      return true;
    }
    switch (commands_.execute(message)) {
      case AfterCommand::kLeave:
        return false;
      case AfterCommand::kAnswer:
        answer();
        break;
      case AfterCommand::kRead:
        break;
    }
  } catch (const Error& error) {
    say_error(error);
  }
  return true;
}

void ChatLoop::ask(const std::string& message) {
  conversation_.add_user(message);
  try {
    if (!answer()) conversation_.undo();
  } catch (const Error&) {
    conversation_.undo();  // a message that cannot be answered would stand in the way of the next
    throw;
  }
}

bool ChatLoop::answer() {
  const StoppableWork work(interrupts_);
  AnswerPrinter printer(reasoning_);
  const AnswerReport report = conversation_.answer(printer.sink(), work.token());
  printer.finish();
  const std::string notice = stop_notice(report, conversation_.session().context());
  if (!notice.empty()) say_dimmed(notice);
  notice_.tell();
  say_dimmed(timing_line(report.prefill, report.generated));
  return report.prefill.completed;
}

}  // namespace sluice::cli
