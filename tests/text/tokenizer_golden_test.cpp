// Ids of the embedded model's tokenizer, as Hugging Face's tokenizers gives them.
// tests/oracle/tokenizer_oracle.py feeds the last test with more.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/text/byte_level.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "quant/gguf_reader.h"
#include "support/places.h"

namespace sluice {
namespace {

const std::filesystem::path kTinyModel = testing::source_directory() / "../shared/models/tiny";

Tokenizer read_tokenizer(const std::filesystem::path& directory) {
  return {tokenizer_from_directory(directory, 0), directory.string()};
}

std::string escaped(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', true);
}

// Words are in the byte-level alphabet, special tokens not cut out.
void check_words(const PreTokenizer& splitter, const std::string& text, const nlohmann::json& words) {
  std::vector<std::string> wanted;
  for (const nlohmann::json& word : words) {
    wanted.push_back(byte_level_decode(word.get<std::string>()).value_or("not byte-level"));
  }
  const std::vector<std::string_view> found = splitter.split(text);
  EXPECT_EQ(std::vector<std::string>(found.begin(), found.end()), wanted) << escaped(text);
}

// Ids both ways for every case of the file; returns how many cases there were.
size_t check_cases(const Tokenizer& tokenizer, const std::filesystem::path& path) {
  std::ifstream file(path);
  const nlohmann::json cases = nlohmann::json::parse(file).at("cases");
  const PreTokenizer splitter;
  for (const nlohmann::json& item : cases) {
    const auto text = item.at("text").get<std::string>();
    if (item.contains("words")) check_words(splitter, text, item["words"]);
    const auto ids = item.at("ids").get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(text, SpecialTokens::kParse), ids) << escaped(text);
    const auto decoded = item.at("decode").get<std::string>();
    EXPECT_EQ(tokenizer.decode(ids), decoded);
    StreamDecoder stream(tokenizer);
    std::string streamed;
    std::string bytes;
    for (const int32_t id : ids) {
      streamed += stream.push(id);
      bytes += tokenizer.token_bytes(id);
    }
    EXPECT_EQ(streamed + stream.finish(), decoded);
    EXPECT_EQ(bytes, decoded);
  }
  return cases.size();
}

class TokenizerGolden : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kTinyModel / "tokenizer.json")) {
      GTEST_SKIP() << kTinyModel << " is not there";
    }
  }
};

TEST_F(TokenizerGolden, AllCases) {
  const Tokenizer tokenizer = read_tokenizer(kTinyModel);
  EXPECT_EQ(tokenizer.size(), 8192);
  EXPECT_EQ(tokenizer.data().bos, 0);
  EXPECT_EQ(tokenizer.data().eos, 1);
  EXPECT_EQ(tokenizer.data().pad, 2);
  EXPECT_FALSE(tokenizer.data().chat_template.empty());
  EXPECT_EQ(check_cases(tokenizer, testing::source_directory() / "tests/golden/tokenizer_cases.json"), 65U);
}

TEST_F(TokenizerGolden, ThroughGguf) {
  quant::GgufMetadata metadata("tiny.gguf");
  tokenizer_to_gguf(tokenizer_from_directory(kTinyModel, 8200), metadata);
  const Tokenizer tokenizer(tokenizer_from_gguf(metadata), "tiny.gguf");
  EXPECT_EQ(tokenizer.size(), 8200);
  EXPECT_EQ(tokenizer.type(8199), TokenType::kUnused);
  check_cases(tokenizer, testing::source_directory() / "tests/golden/tokenizer_cases.json");
}

// The golden prompt "chat" of the reference implementation.
TEST_F(TokenizerGolden, ChatPrompt) {
  const Tokenizer tokenizer = read_tokenizer(kTinyModel);
  const std::vector<int32_t> wanted = {0, 3, 58, 523, 366, 265, 2040, 596, 265, 899, 5607, 20, 4, 6};
  EXPECT_EQ(encode_chat(tokenizer, ChatTokens(tokenizer),
                        {{Role::kUser, "Tell me a story about a lighthouse.", {}}}, Thinking::kOff),
            wanted);
}

TEST_F(TokenizerGolden, WholeBookComesBack) {
  const std::filesystem::path path = kTinyModel / "golden/heldout.txt";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const Tokenizer tokenizer = read_tokenizer(kTinyModel);
  const std::vector<int32_t> ids = tokenizer.encode(text, SpecialTokens::kAsText);
  EXPECT_EQ(tokenizer.decode(ids), text);
  // The model's notes say about 4.0 bytes per token.
  EXPECT_NEAR(static_cast<double>(text.size()) / static_cast<double>(ids.size()), 4.0, 0.1);
}

// Without the script's cases: those of the repository, with the tokenizer inside the embedded model.
TEST(TokenizerOracle, AgreesOnEveryCase) {
  const char* cases = std::getenv("SLUICE_TOKENIZER_ORACLE");
  const char* model = std::getenv("SLUICE_TOKENIZER_MODEL");
  if (cases != nullptr && model != nullptr) {
    EXPECT_GT(check_cases(read_tokenizer(model), cases), 0U);
    return;
  }
  const std::filesystem::path embedded = testing::source_directory() / "models/tiny.gguf";
  if (!std::filesystem::exists(embedded)) GTEST_SKIP() << embedded << " is not there";
  const Tokenizer tokenizer(tokenizer_from_gguf(quant::GgufFile::open(embedded).metadata()),
                            embedded.string());
  EXPECT_EQ(check_cases(tokenizer, testing::source_directory() / "tests/golden/tokenizer_cases.json"), 65U);
}

}  // namespace
}  // namespace sluice
