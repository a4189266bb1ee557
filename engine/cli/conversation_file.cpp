// Reads and writes the JSON of a conversation.
#include "engine/cli/conversation_file.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "quant/base/error.h"
#include "quant/base/output_file.h"

namespace sluice::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kVersionKey = "sluice_chat";
constexpr int kVersion = 1;

constexpr std::array<std::pair<Role, const char*>, 3> kRoles{
    {{Role::kSystem, "system"}, {Role::kUser, "user"}, {Role::kAssistant, "assistant"}}};

const char* role_name(Role role) {
  for (const auto& [candidate, name] : kRoles) {
    if (candidate == role) return name;
  }
  return "";
}

Role parse_role(const std::string& subject, const std::string& name) {
  for (const auto& [role, candidate] : kRoles) {
    if (name == candidate) return role;
  }
  throw Error(subject, "role system, user or assistant", name);
}

std::string text_of(const std::string& subject, const Json& message, const char* key) {
  const auto found = message.find(key);
  if (found == message.end() || !found->is_string()) {
    throw Error(subject, fmt::format("a text named {}", key),
                found == message.end() ? "none" : found->type_name());
  }
  return found->get<std::string>();
}

ChatMessage parse_message(const std::string& subject, const Json& json) {
  if (!json.is_object()) throw Error(subject, "an object", json.type_name());
  ChatMessage message{
      parse_role(subject, text_of(subject, json, "role")), text_of(subject, json, "content"), {}};
  if (json.contains("reasoning")) message.reasoning = text_of(subject, json, "reasoning");
  return message;
}

Json parse_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path.string(), "a saved conversation", system_error_text(errno));
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto version = json.is_object() ? json.find(kVersionKey) : json.end();
  if (!json.is_object() || version == json.end() || *version != kVersion || !json.contains("messages") ||
      !json["messages"].is_array()) {
    throw Error(path.string(), fmt::format("a conversation saved by /save, version {}", kVersion),
                "something else");
  }
  return json;
}

}  // namespace

std::filesystem::path session_path(const std::filesystem::path& path) {
  return path.string() + ".kv";
}

void write_messages(const std::filesystem::path& path, const std::vector<ChatMessage>& messages) {
  Json list = Json::array();
  for (const ChatMessage& message : messages) {
    Json item{{"role", role_name(message.role)}, {"content", message.content}};
    if (!message.reasoning.empty()) item["reasoning"] = message.reasoning;
    list.push_back(std::move(item));
  }
  const Json json{{kVersionKey, kVersion}, {"messages", std::move(list)}};
  OutputFile file(path, OutputFile::Readers::kOwner);
  file.write(json.dump(1) + "\n");
  file.commit();
}

std::vector<ChatMessage> read_messages(const std::filesystem::path& path) {
  const Json json = parse_file(path);
  std::vector<ChatMessage> messages;
  for (const Json& item : json["messages"]) {
    messages.push_back(parse_message(fmt::format("{}: message {}", path.string(), messages.size()), item));
  }
  return messages;
}

}  // namespace sluice::cli
