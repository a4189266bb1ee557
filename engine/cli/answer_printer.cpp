// Streams to the terminal: reasoning dimmed, the answer plain.
#include "engine/cli/answer_printer.h"

#include <fmt/format.h>
#include <unistd.h>

namespace sluice::cli {

AnswerPrinter::AnswerPrinter(ReasoningOutput reasoning)
    : reasoning_(reasoning),
      reasoning_descriptor_(reasoning == ReasoningOutput::kStandardError ? STDERR_FILENO : STDOUT_FILENO),
      colours_(reasoning_descriptor_) {}

AnswerSink AnswerPrinter::sink() {
  AnswerSink sink;
  sink.progress = [this](int64_t done, int64_t total) { progress_.show(prefill_text(done, total)); };
  sink.text = [this](AnswerPart part, std::string_view text) {
    progress_.clear();
    if (part == AnswerPart::kReasoning) {
      show_reasoning(text);
    } else {
      show_content(text);
    }
  };
  return sink;
}

void AnswerPrinter::show_reasoning(std::string_view text) {
  if (reasoning_ == ReasoningOutput::kHidden) {
    progress_.show("Thinking");
    return;
  }
  if (!in_reasoning_) write_all(reasoning_descriptor_, colours_.dim());
  in_reasoning_ = true;
  write_all(reasoning_descriptor_, text);
}

void AnswerPrinter::end_reasoning() {
  if (in_reasoning_) write_all(reasoning_descriptor_, fmt::format("{}\n", colours_.reset()));
  in_reasoning_ = false;
}

void AnswerPrinter::show_content(std::string_view text) {
  end_reasoning();
  write_all(STDOUT_FILENO, text);
  line_open_ = !text.ends_with('\n');
}

void AnswerPrinter::finish() {
  progress_.clear();
  end_reasoning();
  if (line_open_) write_all(STDOUT_FILENO, "\n");
  line_open_ = false;
}

double tokens_per_second(int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
}

std::string timing_line(const PrefillReport& prefill, const GenerateReport& generated) {
  const auto count = static_cast<int64_t>(generated.ids.size());
  return fmt::format("prompt {} tok ({} cached) {:.1f} t/s, generated {} tok {:.1f} t/s", prefill.tokens,
                     prefill.cached, tokens_per_second(prefill.tokens - prefill.cached, prefill.seconds),
                     count, tokens_per_second(count, generated.seconds));
}

std::string stop_notice(const AnswerReport& report, int64_t context) {
  if (!report.prefill.completed) return "Stopped before the answer began.";
  switch (report.generated.reason) {
    case StopReason::kStopped:
      return "Stopped.";
    case StopReason::kContextFull:
      return fmt::format("The context of {} tokens is full: /clear starts anew, -c sets a larger one.",
                         context);
    case StopReason::kMaxTokens:
    case StopReason::kEndOfGeneration:
      break;
  }
  return {};
}

std::string prefill_text(int64_t done, int64_t total) {
  return fmt::format("Reading the prompt: {} of {} tokens", done, total);
}

}  // namespace sluice::cli
