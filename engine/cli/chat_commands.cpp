// One table of commands, one function each.
#include "engine/cli/chat_commands.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>
#include <utility>

#include "quant/base/error.h"

namespace sluice::cli {
namespace {

std::string_view trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// "name rest" to {"name", "rest"}, both trimmed.
std::pair<std::string, std::string> split_word(std::string_view text) {
  text = trim(text);
  const size_t end = std::min(text.find_first_of(" \t"), text.size());
  return {std::string(text.substr(0, end)), std::string(trim(text.substr(end)))};
}

template <typename Number>
Number parse_number(const std::string& name, const std::string& text) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto [rest, failure] = std::from_chars(text.data(), end, value);
  if (failure != std::errc() || rest != end)
    throw Error("/set " + name, "a number", text.empty() ? "nothing" : text);
  return value;
}

std::filesystem::path path_from(const char* command, const std::string& argument) {
  if (argument.empty()) throw Error(command, "a file name", "nothing");
  return argument;
}

}  // namespace

ChatCommands::ChatCommands(Conversation& conversation, std::function<void(std::string_view)> say)
    : conversation_(conversation), say_(std::move(say)) {}

const std::vector<ChatCommands::Command>& ChatCommands::table() {
  static const std::vector<Command> commands{
      {"/help", "", "show this", &ChatCommands::help},
      {"/clear", "", "forget the conversation, keep the system message", &ChatCommands::clear},
      {"/regen", "", "answer the last message again", &ChatCommands::regenerate},
      {"/undo", "", "take back the last message and its answer", &ChatCommands::undo},
      {"/system", "[TEXT]", "show or replace the system message", &ChatCommands::system},
      {"/set", "[NAME VALUE]", "show or change settings", &ChatCommands::set},
      {"/save", "FILE", "save the conversation (FILE) and its cache (FILE.kv)", &ChatCommands::save},
      {"/load", "FILE", "go on with a saved conversation", &ChatCommands::load},
      {"/exit", "", "leave; so do /quit, /bye and Ctrl-D", &ChatCommands::leave},
      {"/quit", "", "", &ChatCommands::leave},
      {"/bye", "", "", &ChatCommands::leave},
  };
  return commands;
}

std::vector<std::string> ChatCommands::names() {
  std::vector<std::string> names;
  for (const Command& command : table()) names.emplace_back(command.name);
  return names;
}

AfterCommand ChatCommands::execute(std::string_view line) {
  const auto [name, argument] = split_word(line);
  for (const Command& command : table()) {
    if (name != command.name) continue;
    if (*command.argument == '\0' && !argument.empty()) throw Error(name, "nothing after it", argument);
    return (this->*command.run)(argument);
  }
  throw Error(name, "a command (/help lists them)", "none of this name");
}

AfterCommand ChatCommands::help(const std::string& /*argument*/) {
  for (const Command& command : table()) {
    if (*command.help == '\0') continue;
    say_(fmt::format("{:<22}{}", fmt::format("{} {}", command.name, command.argument), command.help));
  }
  say_("\"\"\"                   begins a message of several lines, and ends it");
  say_("Ctrl-C                stops an answer; a second one leaves");
  return AfterCommand::kRead;
}

AfterCommand ChatCommands::clear(const std::string& /*argument*/) {
  conversation_.clear();
  say_("The conversation is empty.");
  return AfterCommand::kRead;
}

AfterCommand ChatCommands::regenerate(const std::string& /*argument*/) {
  if (!conversation_.drop_answer()) throw Error("/regen", "a message to answer", "an empty conversation");
  return AfterCommand::kAnswer;
}

AfterCommand ChatCommands::undo(const std::string& /*argument*/) {
  if (!conversation_.undo()) throw Error("/undo", "a message to take back", "an empty conversation");
  say_("Took back the last message and its answer.");
  return AfterCommand::kRead;
}

AfterCommand ChatCommands::system(const std::string& argument) {
  if (!argument.empty()) conversation_.set_system(argument);
  const std::string text = conversation_.system();
  say_(text.empty() ? "No system message." : "System message: " + text);
  return AfterCommand::kRead;
}

AfterCommand ChatCommands::set(const std::string& argument) {
  if (argument.empty()) {
    show_settings();
  } else {
    const auto [name, value] = split_word(argument);
    set_value(name, value);
    say_(fmt::format("{} is {}.", name, value));
  }
  return AfterCommand::kRead;
}

void ChatCommands::show_settings() {
  const ChatSettings& settings = conversation_.settings();
  const SamplingParams& sampling = settings.sampling;
  say_(fmt::format("temp {}  top-k {}  top-p {}  min-p {}  repeat-penalty {}  seed {}", sampling.temperature,
                   sampling.top_k, sampling.top_p, sampling.min_p, sampling.repeat_penalty, sampling.seed));
  say_(fmt::format("think {}  max-tokens {}", settings.thinking == Thinking::kOn ? "on" : "off",
                   settings.max_tokens));
}

void ChatCommands::set_value(const std::string& name, const std::string& value) {
  if (name == "think") {
    if (value != "on" && value != "off")
      throw Error("/set think", "on or off", value.empty() ? "nothing" : value);
    return conversation_.set_thinking(value == "on" ? Thinking::kOn : Thinking::kOff);
  }
  if (name == "max-tokens") return conversation_.set_max_tokens(parse_number<int64_t>(name, value));
  SamplingParams params = conversation_.settings().sampling;
  if (name == "temp") {
    params.temperature = parse_number<float>(name, value);
  } else if (name == "top-k") {
    params.top_k = parse_number<int64_t>(name, value);
  } else if (name == "top-p") {
    params.top_p = parse_number<float>(name, value);
  } else if (name == "min-p") {
    params.min_p = parse_number<float>(name, value);
  } else if (name == "repeat-penalty") {
    params.repeat_penalty = parse_number<float>(name, value);
  } else if (name == "seed") {
    params.seed = parse_number<uint64_t>(name, value);
  } else {
    throw Error("/set " + name, "temp, top-k, top-p, min-p, repeat-penalty, seed, think or max-tokens", name);
  }
  conversation_.set_sampling(params);
}

AfterCommand ChatCommands::save(const std::string& argument) {
  const std::filesystem::path path = path_from("/save", argument);
  conversation_.save(path);
  say_(fmt::format("Saved to {}.", path.string()));
  return AfterCommand::kRead;
}

AfterCommand ChatCommands::load(const std::string& argument) {
  const std::filesystem::path path = path_from("/load", argument);
  const std::string why_no_cache = conversation_.load(path);
  if (!why_no_cache.empty()) say_("The saved cache is of no use and will be computed again: " + why_no_cache);
  say_(fmt::format("{} messages from {}.", conversation_.messages().size(), path.string()));
  return AfterCommand::kRead;
}

AfterCommand ChatCommands::leave(const std::string& /*argument*/) {
  return AfterCommand::kLeave;
}

}  // namespace sluice::cli
