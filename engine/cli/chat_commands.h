// What a line that begins with "/" does in a chat.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cli/conversation.h"

namespace sluice::cli {

/// What the chat does after a command.
enum class AfterCommand { kRead, kAnswer, kLeave };

class ChatCommands {
 public:
  /// Keeps a reference to `conversation`. `say` is given what the user is to read, line by line.
  ChatCommands(Conversation& conversation, std::function<void(std::string_view)> say);

  /// `line` begins with "/". Throws Error when the command fails.
  AfterCommand execute(std::string_view line);

  /// "/help", "/clear", ...
  [[nodiscard]] static std::vector<std::string> names();

 private:
  struct Command {
    const char* name;
    const char* argument;  // as help shows it
    const char* help;
    AfterCommand (ChatCommands::*run)(const std::string& argument);
  };
  static const std::vector<Command>& table();

  AfterCommand help(const std::string& argument);
  AfterCommand clear(const std::string& argument);
  AfterCommand regenerate(const std::string& argument);
  AfterCommand undo(const std::string& argument);
  AfterCommand system(const std::string& argument);
  AfterCommand set(const std::string& argument);
  AfterCommand save(const std::string& argument);
  AfterCommand load(const std::string& argument);
  AfterCommand leave(const std::string& argument);
  void show_settings();
  void set_value(const std::string& name, const std::string& value);

  Conversation& conversation_;
  std::function<void(std::string_view)> say_;
};

}  // namespace sluice::cli
