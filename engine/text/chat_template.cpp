// The conversation is laid out once, as markers and texts in turn; ids and display text come from that.
#include "engine/text/chat_template.h"

#include <fmt/format.h>

#include <string_view>

#include "quant/base/error.h"

namespace sluice {
namespace {

enum class Marker { kBos, kEos, kUser, kAssistant, kThinkBegin, kThinkEnd };

constexpr std::string_view marker_text(Marker marker) {
  switch (marker) {
    case Marker::kBos:
      return "<｜begin▁of▁sentence｜>";
    case Marker::kEos:
      return "<｜end▁of▁sentence｜>";
    case Marker::kUser:
      return "<｜User｜>";
    case Marker::kAssistant:
      return "<｜Assistant｜>";
    case Marker::kThinkBegin:
      return "<think>";
    case Marker::kThinkEnd:
      return "</think>";
  }
  return {};
}

int32_t marker_id(const ChatTokens& tokens, Marker marker) {
  switch (marker) {
    case Marker::kBos:
      return tokens.bos;
    case Marker::kEos:
      return tokens.eos;
    case Marker::kUser:
      return tokens.user;
    case Marker::kAssistant:
      return tokens.assistant;
    case Marker::kThinkBegin:
      return tokens.think_begin;
    case Marker::kThinkEnd:
      return tokens.think_end;
  }
  return -1;
}

// A marker and the text up to the next one. Texts that follow each other without a marker between (two system
// messages) are one text: their border is no border for the tokenizer.
struct Segment {
  Marker marker;
  std::string text;
};

std::vector<Segment> lay_out(const std::vector<ChatMessage>& messages, Thinking thinking) {
  size_t after_last_user = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == Role::kUser) after_last_user = i + 1;
  }
  std::vector<Segment> segments = {{Marker::kBos, {}}};
  const auto mark = [&](Marker marker) { segments.push_back({marker, {}}); };
  const auto say = [&](const std::string& text) { segments.back().text += text; };
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const bool thinks = thinking == Thinking::kOn && i + 1 >= after_last_user;
    switch (message.role) {
      case Role::kSystem:
        say(message.content);
        break;
      case Role::kUser:
        mark(Marker::kUser);
        say(message.content);
        mark(Marker::kAssistant);
        mark(thinks ? Marker::kThinkBegin : Marker::kThinkEnd);
        break;
      case Role::kAssistant:
        if (thinks) {
          say(message.reasoning);
          mark(Marker::kThinkEnd);
        }
        say(message.content);
        mark(Marker::kEos);
        break;
    }
  }
  return segments;
}

int32_t find_marker(const Tokenizer& tokenizer, Marker marker) {
  const std::optional<int32_t> id = tokenizer.find(marker_text(marker));
  if (!id) throw Error("tokenizer", fmt::format("the chat token {}", marker_text(marker)), "none");
  return *id;
}

}  // namespace

ChatTokens::ChatTokens(const Tokenizer& tokenizer)
    : bos(find_marker(tokenizer, Marker::kBos)),
      eos(find_marker(tokenizer, Marker::kEos)),
      user(find_marker(tokenizer, Marker::kUser)),
      assistant(find_marker(tokenizer, Marker::kAssistant)),
      think_begin(find_marker(tokenizer, Marker::kThinkBegin)),
      think_end(find_marker(tokenizer, Marker::kThinkEnd)) {}

std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const ChatTokens& tokens,
                                 const std::vector<ChatMessage>& messages, Thinking thinking) {
  std::vector<int32_t> ids;
  for (const Segment& segment : lay_out(messages, thinking)) {
    ids.push_back(marker_id(tokens, segment.marker));
    // Not even user-defined tokens: DeepSeek-V3.2 declares <think> and </think> as such.
    const std::vector<int32_t> text = tokenizer.encode(segment.text, SpecialTokens::kNone);
    ids.insert(ids.end(), text.begin(), text.end());
  }
  return ids;
}

std::string render_chat(const std::vector<ChatMessage>& messages, Thinking thinking) {
  std::string text;
  for (const Segment& segment : lay_out(messages, thinking)) {
    text += marker_text(segment.marker);
    text += segment.text;
  }
  return text;
}

}  // namespace sluice
