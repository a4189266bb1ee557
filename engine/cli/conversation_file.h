// A saved conversation: {"sluice_chat": 1, "messages": [{"role", "content", "reasoning"?}]}.
#pragma once

#include <filesystem>
#include <vector>

#include "engine/text/chat_template.h"

namespace sluice::cli {

/// Where the session's tokens and cache lie beside the messages: `path`.kv.
std::filesystem::path session_path(const std::filesystem::path& path);

/// Written aside, then renamed; readable by the user alone. Throws Error and leaves nothing behind.
void write_messages(const std::filesystem::path& path, const std::vector<ChatMessage>& messages);

/// Throws Error naming the file and what is wrong with it.
std::vector<ChatMessage> read_messages(const std::filesystem::path& path);

}  // namespace sluice::cli
