// What commands read besides a prompt: whole texts, byte for byte, and lists of token ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::cli {

/// All bytes of a file, or of standard input for "-". Throws Error naming it.
std::string read_all(const std::string& path);

/// Ids separated by commas or white space, around the whole list [ ] if need be; each in [0, vocab_size).
/// Throws Error naming `source` when the list is empty or one is no such number.
std::vector<int32_t> parse_ids(std::string_view text, int64_t vocab_size, const std::string& source);

/// The same from a file's content: text, or a .npy array of int32 or int64.
std::vector<int32_t> read_ids(const std::string& path, int64_t vocab_size);

}  // namespace sluice::cli
