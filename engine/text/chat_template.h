// The official V3.1 / V3.2 chat format (model specification 6): messages to token ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace sluice {

enum class Role { kSystem, kUser, kAssistant };

struct ChatMessage {
  Role role = Role::kUser;
  std::string content;
  std::string reasoning;  // assistant only; dropped from turns before the last user message
};

enum class Thinking { kOff, kOn };

/// Ids of the markers, looked up by text once. Throws Error naming the missing token when the tokenizer lacks
/// one.
struct ChatTokens {
  explicit ChatTokens(const Tokenizer& tokenizer);
  int32_t bos, eos, user, assistant, think_begin, think_end;
};

/// The conversation as a prompt that ends where the model continues. Message contents are plain text: markers
/// inside them are not parsed. BOS comes first, exactly once.
std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const ChatTokens& tokens,
                                 const std::vector<ChatMessage>& messages, Thinking thinking);

/// The same as text, for display and tests.
std::string render_chat(const std::vector<ChatMessage>& messages, Thinking thinking);

}  // namespace sluice
