// tokenizer.json and tokenizer_config.json: what is read, and that hostile or foreign files are refused by
// name.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/text/tokenizer.h"
#include "quant/base/error.h"
#include "support/temporary_directory.h"
#include "text/small_tokenizer.h"

namespace sluice {
namespace {

using Json = nlohmann::json;
using testing::small_tokenizer_data;

// The small vocabulary as a tokenizer.json; the chat tokens stand only among the added ones.
Json small_json() {
  const TokenizerData data = small_tokenizer_data();
  Json root = {{"version", "1.0"}, {"normalizer", nullptr}, {"post_processor", nullptr}};
  Json& steps = root["pre_tokenizer"]["pretokenizers"];
  root["pre_tokenizer"]["type"] = "Sequence";
  for (const std::string_view pattern : kDeepSeekV3Patterns) {
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  root["model"] = {{"type", "BPE"}, {"byte_fallback", false}, {"merges", data.merges}};
  for (size_t i = 0; i < data.tokens.size(); ++i) {
    const auto id = static_cast<int>(i);
    if (data.types[i] == TokenType::kNormal) {
      root["model"]["vocab"][data.tokens[i]] = id;
    } else {
      const bool special = data.types[i] == TokenType::kControl;
      root["added_tokens"].push_back({{"id", id}, {"content", data.tokens[i]}, {"special", special}});
    }
  }
  return root;
}

// what() for a changed small_json(); empty when it is read.
std::string error_of(const std::function<void(Json&)>& change) {
  Json root = small_json();
  change(root);
  try {
    const Tokenizer tokenizer(parse_tokenizer_json(root.dump(), "t.json"), "t.json");
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

void expect_error(const std::function<void(Json&)>& change, std::string_view part) {
  const std::string message = error_of(change);
  EXPECT_TRUE(message.starts_with("t.json")) << message;
  EXPECT_NE(message.find(part), std::string::npos) << "wanted \"" << part << "\" in \"" << message << "\"";
}

std::string text_error(std::string_view text) {
  try {
    (void)parse_tokenizer_json(text, "t.json");
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(TokenizerJson, ReadsWhatWasWritten) {
  const TokenizerData wanted = small_tokenizer_data();
  const TokenizerData data = parse_tokenizer_json(small_json().dump(), "t.json");
  EXPECT_EQ(data.tokens, wanted.tokens);
  EXPECT_EQ(data.types, wanted.types);
  EXPECT_EQ(data.merges, wanted.merges);
  EXPECT_EQ(data.bos, wanted.bos);
  EXPECT_EQ(data.eos, wanted.eos);
  EXPECT_EQ(data.pad, wanted.pad);
  EXPECT_TRUE(data.add_bos);
}

TEST(TokenizerJson, MergesAsListsAndAddedTokensInTheVocabulary) {
  Json root = small_json();
  root["model"]["merges"] = Json::array();
  for (const std::string& merge : small_tokenizer_data().merges) {
    const size_t space = merge.find(' ');
    root["model"]["merges"].push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  for (const Json& token : root["added_tokens"]) root["model"]["vocab"][token["content"]] = token["id"];
  root["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array()}};
  const TokenizerData data = parse_tokenizer_json(root.dump(), "t.json");
  EXPECT_EQ(data.merges, small_tokenizer_data().merges);
  EXPECT_EQ(data.types, small_tokenizer_data().types);
}

TEST(TokenizerJson, TypesOfAddedTokensAndHoles) {
  Json root = small_json();
  const size_t n = small_tokenizer_data().tokens.size();
  root["added_tokens"].push_back({{"id", n + 2}, {"content", "<tool>"}, {"special", false}});
  root["added_tokens"].push_back({{"id", n + 3}, {"content", "<|EOT|>"}, {"special", false}});
  const TokenizerData data = parse_tokenizer_json(root.dump(), "t.json");
  ASSERT_EQ(data.tokens.size(), n + 4);
  EXPECT_EQ(data.tokens[n], "[PAD" + std::to_string(n) + "]");
  EXPECT_EQ(data.types[n], TokenType::kUnused);
  EXPECT_EQ(data.types[n + 1], TokenType::kUnused);
  EXPECT_EQ(data.types[n + 2], TokenType::kUserDefined);
  EXPECT_EQ(data.types[n + 3], TokenType::kControl);  // for its name
}

TEST(TokenizerJson, OtherTokenizersAreRefused) {
  expect_error([](Json& t) { t["model"]["type"] = "Unigram"; },
               "model.type: expected \"BPE\", found \"Unigram\"");
  expect_error([](Json& t) { t["model"]["byte_fallback"] = true; }, "model.byte_fallback: expected false");
  expect_error([](Json& t) { t["model"]["ignore_merges"] = true; }, "model.ignore_merges: expected false");
  expect_error([](Json& t) { t["model"]["dropout"] = 0.1; }, "model.dropout");
  expect_error([](Json& t) { t["model"]["end_of_word_suffix"] = "</w>"; }, "model.end_of_word_suffix");
  expect_error([](Json& t) { t["normalizer"] = {{"type", "NFC"}}; }, "normalizer.type");
  expect_error(
      [](Json& t) {
        t["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
      },
      "normalizer.normalizers: expected no normalizer");
  expect_error([](Json& t) { t["added_tokens"][5]["lstrip"] = true; },
               "added_tokens.[5].lstrip: expected false");
}

TEST(TokenizerJson, OtherPreTokenizersAreRefused) {
  const auto steps = [](Json& t) -> Json& { return t["pre_tokenizer"]["pretokenizers"]; };
  expect_error([](Json& t) { t.erase("pre_tokenizer"); }, "the key \"pre_tokenizer\"");
  expect_error([](Json& t) { t["pre_tokenizer"] = nullptr; }, "the key \"pre_tokenizer\"");
  expect_error([](Json& t) { t["pre_tokenizer"]["type"] = "ByteLevel"; }, "pre_tokenizer.type");
  expect_error([&](Json& t) { steps(t).erase(1); }, "the three splits of deepseek-v3");
  expect_error([&](Json& t) { steps(t)[0]["pattern"]["Regex"] = "\\p{N}"; }, "pattern 1 of the deepseek-v3");
  expect_error([&](Json& t) { std::swap(steps(t)[0], steps(t)[1]); }, "pattern 1 of the deepseek-v3");
  expect_error([&](Json& t) { steps(t)[2]["pattern"] = {{"String", " "}}; }, "the key \"Regex\"");
  expect_error([&](Json& t) { steps(t)[2]["behavior"] = "Removed"; }, "behavior: expected \"Isolated\"");
  expect_error([&](Json& t) { steps(t)[2]["invert"] = true; }, "invert: expected false");
  expect_error([&](Json& t) { steps(t)[3]["add_prefix_space"] = true; }, "add_prefix_space: expected false");
  expect_error([&](Json& t) { steps(t)[3].erase("use_regex"); }, "the key \"use_regex\"");
}

TEST(TokenizerJson, LineBreaksInAPatternMayBeWrittenOrNot) {
  EXPECT_EQ(error_of([](Json& t) {
              Json& regex = t["pre_tokenizer"]["pretokenizers"][2]["pattern"]["Regex"];
              std::string text = regex.get<std::string>();
              for (const auto& [written, raw] : {std::pair("\\r", "\r"), std::pair("\\n", "\n")}) {
                for (size_t at = text.find(written); at != std::string::npos; at = text.find(written)) {
                  text.replace(at, 2, raw);
                }
              }
              regex = text;
            }),
            "");
}

TEST(TokenizerJson, WrongTypesAreNamed) {
  expect_error([](Json& t) { t.erase("model"); }, "the key \"model\"");
  expect_error([](Json& t) { t["model"] = 3; }, "model: expected an object, found 3");
  expect_error([](Json& t) { t["model"].erase("vocab"); }, "model: expected the key \"vocab\"");
  expect_error([](Json& t) { t["model"]["vocab"] = Json::array(); },
               "model.vocab: expected an object, found an array");
  expect_error([](Json& t) { t["model"]["vocab"]["a"] = "7"; }, "model.vocab.a: expected an id");
  expect_error([](Json& t) { t["model"]["vocab"]["a"] = 7.5; }, "model.vocab.a: expected an id");
  expect_error([](Json& t) { t["model"]["merges"] = "a b"; }, "model.merges: expected an array");
  expect_error([](Json& t) { t["model"]["merges"][0] = 1; }, "model.merges.[0]: expected two tokens");
  expect_error(
      [](Json& t) {
        t["model"]["merges"][0] = {"h", "e", "l"};
      },
      "model.merges.[0]: expected two tokens");
  expect_error(
      [](Json& t) {
        t["model"]["merges"][0] = {"h", 1};
      },
      "model.merges.[0].[1]: expected a string");
  expect_error([](Json& t) { t["model"]["merges"][0] = {"h e", "l"}; }, "a byte-level token");
  expect_error([](Json& t) { t["added_tokens"] = 0; }, "added_tokens: expected an array");
  expect_error([](Json& t) { t["added_tokens"][0] = "x"; }, "added_tokens.[0]: expected an object");
  expect_error([](Json& t) { t["added_tokens"][0].erase("id"); }, "the key \"id\"");
  expect_error([](Json& t) { t["added_tokens"][0]["special"] = "yes"; }, "special: expected true or false");
}

TEST(TokenizerJson, AbsurdIdsAreRefused) {
  expect_error([](Json& t) { t["model"]["vocab"]["a"] = -1; }, "model.vocab.a: expected an id");
  expect_error([](Json& t) { t["model"]["vocab"]["a"] = 2000000000; }, "model.vocab.a: expected an id below");
  expect_error([](Json& t) { t["model"]["vocab"]["a"] = 9223372036854775807LL; },
               "model.vocab.a: expected an id");
  expect_error([](Json& t) { t["model"]["vocab"]["a"] = 18446744073709551615ULL; },
               "model.vocab.a: expected an id");
  expect_error([](Json& t) { t["model"]["vocab"]["a"] = t["model"]["vocab"]["b"]; },
               "an id that \"a\" does not have");
  expect_error([](Json& t) { t["added_tokens"][1]["id"] = 0; }, "added_tokens.[1].id");
  expect_error([](Json& t) { t["added_tokens"].push_back(t["added_tokens"][0]); }, "added_tokens.[7].id");
  expect_error([](Json& t) { t["model"]["vocab"]["<think>"] = 300; },
               "added_tokens.[5].id: expected 300 as in");
  expect_error([](Json& t) { t["model"]["vocab"].erase("Q"); }, "for byte 0x51");
}

TEST(TokenizerJson, HostileText) {
  EXPECT_NE(text_error("").find("syntax error at byte"), std::string::npos);
  EXPECT_NE(text_error("{\"a\": ").find("syntax error at byte"), std::string::npos);
  EXPECT_NE(text_error("{\"a\": \"\xFF\"}").find("syntax error at byte"), std::string::npos);
  EXPECT_NE(text_error("{\"a\": 1, \"a\": 2}").find("\"a\" twice"), std::string::npos);
  EXPECT_NE(text_error("[]").find("expected an object"), std::string::npos);
  EXPECT_NE(text_error(std::string(1'000'000, '[')).find("levels"), std::string::npos);
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += "{\"a\":";
  EXPECT_NE(text_error(nested).find("levels"), std::string::npos);
  // Any beginning of a good file is refused, never read half.
  const std::string good = small_json().dump();
  for (size_t length = 0; length < good.size(); length += 37) {
    EXPECT_NE(text_error(std::string_view(good).substr(0, length)), "") << length;
  }
  // A name of a megabyte does not fill the message.
  const std::string long_name = error_of([](Json& t) { t["model"]["type"] = std::string(1'000'000, 'x'); });
  EXPECT_LT(long_name.size(), 300U);
}

class TokenizerDirectory : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ / name) << text;
  }
  [[nodiscard]] TokenizerData read(int64_t vocab_size) const {
    return tokenizer_from_directory(directory_.path(), vocab_size);
  }
  [[nodiscard]] std::string error(int64_t vocab_size) const {
    try {
      (void)read(vocab_size);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }
  testing::TemporaryDirectory directory_;
};

TEST_F(TokenizerDirectory, ConfigIsOptional) {
  write("tokenizer.json", small_json().dump());
  const TokenizerData data = read(0);
  EXPECT_EQ(data.bos, testing::kSmallBos);
  EXPECT_TRUE(data.add_bos);
  EXPECT_EQ(data.chat_template, "");
  EXPECT_EQ(data.tokens.size(), small_tokenizer_data().tokens.size());
}

TEST_F(TokenizerDirectory, ConfigNamesTheRoles) {
  write("tokenizer.json", small_json().dump());
  write("tokenizer_config.json",
        R"({"add_bos_token": false, "bos_token": {"content": "<｜User｜>", "lstrip": false},
            "eos_token": "<｜Assistant｜>", "pad_token": null, "chat_template": "{{ x }}"})");
  const TokenizerData data = read(0);
  EXPECT_EQ(data.bos, testing::kSmallUser);
  EXPECT_EQ(data.eos, testing::kSmallAssistant);
  EXPECT_EQ(data.pad, testing::kSmallPad);
  EXPECT_TRUE(data.add_bos);  // in spite of the file
  EXPECT_EQ(data.chat_template, "{{ x }}");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "tool", "template": "t"},
                                                       {"name": "default", "template": "d"}]})");
  EXPECT_EQ(read(0).chat_template, "d");
}

TEST_F(TokenizerDirectory, Padding) {
  write("tokenizer.json", small_json().dump());
  const size_t n = small_tokenizer_data().tokens.size();
  const TokenizerData data = read(static_cast<int64_t>(n) + 3);
  ASSERT_EQ(data.tokens.size(), n + 3);
  EXPECT_EQ(data.tokens.back(), "[PAD" + std::to_string(n + 2) + "]");
  EXPECT_EQ(data.types.back(), TokenType::kUnused);
  const Tokenizer tokenizer(data, "padded");
  EXPECT_EQ(tokenizer.size(), static_cast<int64_t>(n) + 3);
  EXPECT_NE(error(static_cast<int64_t>(n) - 1).find("vocab_size"), std::string::npos);
  EXPECT_NE(error(int64_t{1} << 50).find("vocab_size"), std::string::npos);
}

TEST_F(TokenizerDirectory, Errors) {
  EXPECT_NE(error(0).find("tokenizer.json: expected a readable file"), std::string::npos) << error(0);
  write("tokenizer.json", small_json().dump());
  for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
           {"{", "syntax error"},
           {"[]", "expected an object"},
           {R"({"bos_token": 1})", "bos_token: expected a string, found 1"},
           {R"({"bos_token": {}})", "bos_token: expected the key \"content\""},
           {R"({"eos_token": "none such"})", "eos_token: expected a token of tokenizer.json"},
           {R"({"chat_template": 1})", "chat_template: expected a string"},
           {R"({"chat_template": [{}]})", "chat_template.[0]: expected the key \"name\""}}) {
    write("tokenizer_config.json", text);
    EXPECT_NE(error(0).find("tokenizer_config.json"), std::string::npos) << error(0);
    EXPECT_NE(error(0).find(part), std::string::npos) << error(0);
  }
}

}  // namespace
}  // namespace sluice
