// A chat: its messages, and the session that answers them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"

namespace sluice::cli {

struct ChatSettings {
  SamplingParams sampling;
  Thinking thinking = Thinking::kOff;
  int64_t max_tokens = -1;  // per answer; -1 = until the context is full
};

enum class AnswerPart { kReasoning, kContent };

/// What an answer is shown through while it comes.
struct AnswerSink {
  PrefillProgress progress;
  std::function<void(AnswerPart, std::string_view)> text;  // never splits a UTF-8 character
};

struct AnswerReport {
  PrefillReport prefill;
  GenerateReport generated;  // empty when the prefill was stopped
};

class Conversation {
 public:
  /// Keeps a reference to `session`. Throws Error when the model has no tokenizer or it lacks a chat marker.
  Conversation(Session& session, const ChatSettings& settings);

  [[nodiscard]] const std::vector<ChatMessage>& messages() const { return messages_; }
  [[nodiscard]] const ChatSettings& settings() const { return settings_; }
  [[nodiscard]] const Session& session() const { return session_; }
  /// Starts a new random sequence. Throws Error naming the flag; then nothing changes.
  void set_sampling(const SamplingParams& params);
  void set_thinking(Thinking thinking) { settings_.thinking = thinking; }
  void set_max_tokens(int64_t max_tokens) { settings_.max_tokens = max_tokens; }

  [[nodiscard]] std::string system() const;
  /// Replaces the system message. Throws Error when `text` is not UTF-8; so do the others that take text.
  void set_system(const std::string& text);
  void add_user(const std::string& text);
  /// Removes the last user message and what follows it. False when there is none.
  bool undo();
  /// Removes the answers after the last user message. False when there is no user message.
  bool drop_answer();
  /// Removes all but the system message.
  void clear();

  /// Answers the last user message and appends the answer, which may be partial, to the messages; a stopped
  /// prefill appends none. Throws Error when the conversation does not fit the context.
  AnswerReport answer(const AnswerSink& sink, const std::stop_token& stop);

  /// Messages as JSON at `path`, the session at `path`.kv; each is written aside, then renamed. Throws Error.
  void save(const std::filesystem::path& path);
  /// Throws Error and changes nothing when the messages cannot be read. Returns why the session's part could
  /// not be used, or an empty text; without it the next answer computes the conversation again.
  std::string load(const std::filesystem::path& path);

 private:
  GenerateReport generate(const AnswerSink& sink, const std::stop_token& stop, ChatMessage& answer);

  Session& session_;
  const Tokenizer& tokenizer_;
  ChatTokens tokens_;
  ChatSettings settings_;
  Sampler sampler_;
  std::vector<ChatMessage> messages_;
};

}  // namespace sluice::cli
