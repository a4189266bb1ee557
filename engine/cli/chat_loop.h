// The interactive chat: reads messages and commands until the user leaves.
#pragma once

#include <string>

#include "engine/cli/answer_printer.h"
#include "engine/cli/chat_commands.h"
#include "engine/cli/conversation.h"
#include "engine/cli/interrupt.h"
#include "engine/cli/line_editor.h"
#include "engine/cli/runtime_notice.h"

namespace sluice::cli {

class ChatLoop {
 public:
  /// Keeps references to both.
  ChatLoop(Conversation& conversation, Interrupts& interrupts, ReasoningOutput reasoning);

  /// Returns the exit code: 0, or 130 after Ctrl-C twice or another signal that ends programs.
  int run();

 private:
  enum class Input { kMessage, kInterrupted, kEnd };
  // Several lines between """ and """ are one message; `is_block` tells that it was one.
  Input read_message(std::string& message, bool& is_block);
  Input read_block(std::string first_line, std::string& message);
  // False when the user leaves.
  bool handle(const std::string& message, bool is_block);
  void ask(const std::string& message);
  // False when there is no answer, not even a partial one.
  bool answer();

  Conversation& conversation_;
  Interrupts& interrupts_;
  ReasoningOutput reasoning_;
  ChatCommands commands_;
  LineEditor editor_;
  RuntimeNotice notice_;
};

}  // namespace sluice::cli
