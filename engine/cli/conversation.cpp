// Messages in, streamed answers out.
#include "engine/cli/conversation.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/cli/conversation_file.h"
#include "engine/text/utf8.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

void check_utf8(const char* what, const std::string& text) {
  if (const auto offset = find_invalid_utf8(text)) {
    throw Error(what, "UTF-8", fmt::format("invalid bytes at offset {}", *offset));
  }
}

bool is_user(const ChatMessage& message) {
  return message.role == Role::kUser;
}

}  // namespace

Conversation::Conversation(Session& session, const ChatSettings& settings)
    : session_(session),
      tokenizer_(session.runtime().model().tokenizer()),
      tokens_(tokenizer_),
      settings_(settings),
      sampler_(settings.sampling) {}

void Conversation::set_sampling(const SamplingParams& params) {
  params.check();
  sampler_ = Sampler(params);
  settings_.sampling = params;
}

std::string Conversation::system() const {
  const bool has_system = !messages_.empty() && messages_.front().role == Role::kSystem;
  return has_system ? messages_.front().content : std::string();
}

void Conversation::set_system(const std::string& text) {
  check_utf8("system message", text);
  if (!messages_.empty() && messages_.front().role == Role::kSystem) messages_.erase(messages_.begin());
  if (!text.empty()) messages_.insert(messages_.begin(), {Role::kSystem, text, {}});
}

void Conversation::add_user(const std::string& text) {
  check_utf8("prompt", text);
  messages_.push_back({Role::kUser, text, {}});
}

bool Conversation::undo() {
  const bool found = drop_answer();
  if (found) messages_.pop_back();
  return found;
}

bool Conversation::drop_answer() {
  const auto last_user = std::find_if(messages_.rbegin(), messages_.rend(), is_user);
  if (last_user == messages_.rend()) return false;
  messages_.erase(last_user.base(), messages_.end());
  return true;
}

void Conversation::clear() {
  std::erase_if(messages_, [](const ChatMessage& message) { return message.role != Role::kSystem; });
}

AnswerReport Conversation::answer(const AnswerSink& sink, const std::stop_token& stop) {
  AnswerReport report;
  report.prefill =
      session_.prefill(encode_chat(tokenizer_, tokens_, messages_, settings_.thinking), sink.progress, stop);
  if (!report.prefill.completed) return report;
  ChatMessage answer{Role::kAssistant, {}, {}};
  report.generated = generate(sink, stop, answer);
  messages_.push_back(std::move(answer));
  return report;
}

GenerateReport Conversation::generate(const AnswerSink& sink, const std::stop_token& stop,
                                      ChatMessage& answer) {
  AnswerPart part = settings_.thinking == Thinking::kOn ? AnswerPart::kReasoning : AnswerPart::kContent;
  StreamDecoder decoder(tokenizer_);
  const auto say = [&](const std::string& text) {
    (part == AnswerPart::kReasoning ? answer.reasoning : answer.content) += text;
    if (!text.empty()) sink.text(part, text);
  };
  GenerateOptions options;
  options.max_tokens = settings_.max_tokens;
  options.stop = stop;
  options.on_token = [&](int32_t id) {
    if (part == AnswerPart::kReasoning && id == tokens_.think_end) {
      say(decoder.finish());
      part = AnswerPart::kContent;
    } else {
      say(decoder.push(id));
    }
    return true;
  };
  GenerateReport report = session_.generate(sampler_, options);
  say(decoder.finish());
  return report;
}

void Conversation::save(const std::filesystem::path& path) {
  write_messages(path, messages_);
  session_.save(session_path(path));
}

std::string Conversation::load(const std::filesystem::path& path) {
  messages_ = read_messages(path);
  try {
    session_.load(session_path(path));
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace sluice::cli
