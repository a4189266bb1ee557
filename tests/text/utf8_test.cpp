// UTF-8 against the tables of the Unicode Standard, chapter 3.9.
#include "engine/text/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice {
namespace {

std::string encoded(uint32_t code) {
  const auto byte = [](uint32_t value) { return static_cast<char>(static_cast<uint8_t>(value)); };
  if (code < 0x80) return {byte(code)};
  if (code < 0x800) return {byte(0xC0 | (code >> 6)), byte(0x80 | (code & 0x3F))};
  if (code < 0x10000)
    return {byte(0xE0 | (code >> 12)), byte(0x80 | ((code >> 6) & 0x3F)), byte(0x80 | (code & 0x3F))};
  return {byte(0xF0 | (code >> 18)), byte(0x80 | ((code >> 12) & 0x3F)), byte(0x80 | ((code >> 6) & 0x3F)),
          byte(0x80 | (code & 0x3F))};
}

TEST(Utf8, EveryCodePoint) {
  for (uint32_t code = 0; code < 0x110000; ++code) {
    const std::string bytes = encoded(code);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    const Utf8Step step = utf8_step(bytes);
    ASSERT_EQ(step.status, surrogate ? Utf8Status::kInvalid : Utf8Status::kComplete) << std::hex << code;
    if (surrogate) continue;
    ASSERT_EQ(step.length, bytes.size()) << std::hex << code;
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      const Utf8Step part = utf8_step(std::string_view(bytes).substr(0, cut));
      ASSERT_EQ(part.status, Utf8Status::kIncomplete) << std::hex << code;
      ASSERT_EQ(part.length, cut);
    }
  }
}

TEST(Utf8, IllFormedSequences) {
  const auto expect_invalid = [](std::string_view bytes, size_t length) {
    const Utf8Step step = utf8_step(bytes);
    EXPECT_EQ(step.status, Utf8Status::kInvalid);
    EXPECT_EQ(step.length, length);
  };
  expect_invalid("\x80", 1);
  expect_invalid("\xC0\x80", 1);          // overlong
  expect_invalid("\xE0\x9F\xBF", 1);      // overlong
  expect_invalid("\xF0\x8F\xBF\xBF", 1);  // overlong
  expect_invalid("\xED\xA0\x80", 1);      // a surrogate
  expect_invalid("\xF4\x90\x80\x80", 1);  // beyond U+10FFFF
  expect_invalid("\xF5\x80\x80\x80", 1);
  expect_invalid("\xFF", 1);
  expect_invalid("\xE1\x80\xC0", 2);  // the standard's maximal subparts: E1 80, F1 80 80
  expect_invalid(
      "\xF1\x80\x80"
      "A",
      3);
  expect_invalid("\xC3(", 1);
}

TEST(Utf8, OffsetOfTheFirstInvalidByte) {
  EXPECT_EQ(find_invalid_utf8(""), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("aé中\U0001F600"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("aé\xFFz"), 3U);
  EXPECT_EQ(find_invalid_utf8("abc\xE4\xB8"), 3U);
}

}  // namespace
}  // namespace sluice
