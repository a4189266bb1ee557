// Shows an answer while it comes, and the line of figures after it.
#pragma once

#include <optional>
#include <string>

#include "engine/cli/conversation.h"
#include "engine/cli/terminal.h"

namespace sluice::cli {

/// Where the model's reasoning goes. Its answer always goes to standard output.
enum class ReasoningOutput { kStandardOutput, kStandardError, kHidden };

class AnswerPrinter {
 public:
  explicit AnswerPrinter(ReasoningOutput reasoning);

  /// Refers to this object.
  [[nodiscard]] AnswerSink sink();
  /// Ends an open line on standard output (and on standard error, when reasoning went there).
  void finish();

 private:
  void show_reasoning(std::string_view text);
  void show_content(std::string_view text);
  void end_reasoning();

  ReasoningOutput reasoning_;
  int reasoning_descriptor_;
  Colours colours_;  // of the reasoning's descriptor
  ProgressLine progress_;
  bool in_reasoning_ = false;
  bool line_open_ = false;
};

/// "prompt N tok (M cached) X t/s, generated N tok Y t/s".
std::string timing_line(const PrefillReport& prefill, const GenerateReport& generated);

/// What to tell about why an answer ended; empty when there is nothing to tell.
std::string stop_notice(const AnswerReport& report, int64_t context);

/// Tokens per second; 0 when no time passed.
double tokens_per_second(int64_t tokens, double seconds);

/// "Reading the prompt: 512 of 2000 tokens".
std::string prefill_text(int64_t done, int64_t total);

}  // namespace sluice::cli
