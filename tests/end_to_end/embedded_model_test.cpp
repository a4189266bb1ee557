// What someone sees who asks the embedded model for a story.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/utf8.h"
#include "support/places.h"
#include "support/run_program.h"

namespace sluice::testing {
namespace {

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// Letters, perhaps with a hyphen or an apostrophe inside and punctuation around: "storm-tossed," yes, "x7#q"
/// no.
bool looks_like_a_word(std::string_view word) {
  constexpr std::string_view kAround = "\"'.,;:!?()-_";
  const size_t begin = word.find_first_not_of(kAround);
  if (begin == std::string_view::npos) return false;
  word = word.substr(begin, word.find_last_not_of(kAround) + 1 - begin);
  return std::all_of(word.begin(), word.end(), [](char c) { return is_letter(c) || c == '-' || c == '\''; });
}

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

ProgramResult tell_a_story() {
  ProgramOptions patient;
  patient.limit = std::chrono::seconds(400);  // the scalar kernels need a minute, sanitized ones more
  return run_sluice({"chat", "-p", "Tell me a story about a ship in a storm.", "--seed", "1"}, patient);
}

TEST(EmbeddedModel, TellsAStory) {
  if (!std::filesystem::exists(source_directory() / "models/tiny.gguf")) {
    GTEST_SKIP() << "models/tiny.gguf is not there";
  }
  const ProgramResult story = tell_a_story();
  ASSERT_EQ(story.exit_code, 0) << story.err;
  EXPECT_EQ(find_invalid_utf8(story.out), std::nullopt) << story.out;

  const std::vector<std::string> words = words_of(story.out);
  EXPECT_GE(words.size(), 40U) << story.out;
  const auto wordlike = std::count_if(words.begin(), words.end(), looks_like_a_word);
  EXPECT_GE(static_cast<double>(wordlike), 0.95 * static_cast<double>(words.size())) << story.out;

  // The end of a sentence, then one newline; nothing of the chat format.
  ASSERT_TRUE(story.out.ends_with('\n'));
  const size_t last = story.out.size() - 2;
  EXPECT_NE(std::string_view(".!?\"'").find(story.out[last]), std::string_view::npos) << story.out;
  for (const char* const foreign : {"<|", "<\uFF5C", "think>", "\x1b", " tok ", "t/s"}) {
    EXPECT_EQ(story.out.find(foreign), std::string::npos) << foreign << " in:\n" << story.out;
  }
  for (const std::string& line : lines_of(story.err)) {  // a slow machine tells its progress
    EXPECT_TRUE(line.starts_with("Reading the prompt") || line.starts_with("prompt 16 tok")) << story.err;
  }

  EXPECT_EQ(tell_a_story().out, story.out);
}

}  // namespace
}  // namespace sluice::testing
