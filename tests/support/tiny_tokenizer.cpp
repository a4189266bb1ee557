// Writes the tokenizer.
#include "support/tiny_tokenizer.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/pre_tokenizer.h"

namespace sluice::testing {
namespace {

using Json = nlohmann::json;

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// Byte-level BPE's alphabet: printable Latin-1 stands for itself, the rest for code points from 256 on.
std::string byte_letter(int byte) {
  static const std::vector<int> code_points = [] {
    std::vector<int> table(256);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      table[static_cast<size_t>(b)] = printable ? b : next++;
    }
    return table;
  }();
  const int code = code_points[static_cast<size_t>(byte)];
  if (code < 128) {
    return {static_cast<char>(code)};
  }
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

Json pre_tokenizer_json() {
  Json steps = Json::array();
  for (const auto& pattern : kDeepSeekV3Patterns) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", std::string(pattern)}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back(
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

}  // namespace

void write_tiny_tokenizer(const std::filesystem::path& directory) {
  const std::vector<std::string> special{"<｜begin▁of▁sentence｜>",
                                         "<｜end▁of▁sentence｜>",
                                         "<｜▁pad▁｜>",
                                         "<｜User｜>",
                                         "<｜Assistant｜>",
                                         "<think>",
                                         "</think>"};
  Json vocab = Json::object();
  Json added = Json::array();
  int id = 0;
  for (const std::string& text : special) {
    vocab[text] = id;
    added.push_back({{"id", id++},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  for (int byte = 0; byte < 256; ++byte) {
    vocab[byte_letter(byte)] = id++;
  }
  Json merges = Json::array();
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {"t", "h"}, {"th", "e"}, {"i", "n"}, {"e", "r"}, {byte_letter(' '), "the"}, {"a", "n"}}) {
    merges.push_back({left, right});
    vocab[left + right] = id++;
  }
  const Json tokenizer{{"version", "1.0"},
                       {"added_tokens", std::move(added)},
                       {"normalizer", nullptr},
                       {"pre_tokenizer", pre_tokenizer_json()},
                       {"post_processor", nullptr},
                       {"model",
                        {{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", nullptr},
                         {"byte_fallback", false},
                         {"vocab", std::move(vocab)},
                         {"merges", std::move(merges)}}}};
  write_text(directory / "tokenizer.json", tokenizer.dump());
  const Json config{{"add_bos_token", true},   {"add_eos_token", false},
                    {"bos_token", special[0]}, {"eos_token", special[1]},
                    {"pad_token", special[2]}, {"chat_template", "{{ bos_token }}"}};
  write_text(directory / "tokenizer_config.json", config.dump());
}

}  // namespace sluice::testing
