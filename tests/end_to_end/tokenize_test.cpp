// `sluice tokenize` as a user runs it. Ids: 7 special tokens (0 is BOS), then the 256 bytes in the byte-level
// alphabet's order, then merges.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/model.h"
#include "support/model_files.h"
#include "support/run_program.h"

namespace sluice {
namespace {

using nlohmann::json;
using testing::ModelFiles;
using testing::ProgramResult;
using testing::Random;
using testing::run_sluice;

class TokenizeCommand : public ::testing::Test {
 protected:
  std::string ids(const std::string& text, const std::string& flag = "--no-bos") const {
    const ProgramResult result = run_sluice({"tokenize", "-m", files_.model(), flag, text});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }

  Random random_;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, random_.describe()};
  ModelFiles files_{ModelFiles::Text::kWithTokenizer, random_};
};

TEST_F(TokenizeCommand, MatchesTheTokenizerWithAndWithoutBos) {
  const Model model = Model::load(files_.model());
  const std::vector<int32_t> encoded = model.tokenizer().encode("in the end", SpecialTokens::kParse);
  ASSERT_GT(encoded.size(), 3U);
  EXPECT_EQ(ids("in the end"), fmt::format("{}\n", fmt::join(encoded, " ")));
  EXPECT_EQ(ids("in the end", "--bos"), fmt::format("0 {}\n", fmt::join(encoded, " ")));
}

TEST_F(TokenizeCommand, FileAndStandardInputAreTakenByteForByte) {
  const std::string text = "the\r\n\tthe  end\n\n";
  const std::string path = files_.write("text.txt", text);
  const std::string from_argument = ids(text);
  EXPECT_EQ(run_sluice({"tokenize", "-m", files_.model(), "-f", path}).out, from_argument);
  EXPECT_EQ(run_sluice({"tokenize", "-m", files_.model()}, {.input = text}).out, from_argument);
  EXPECT_EQ(run_sluice({"tokenize", "-m", files_.model(), "-f", "-"}, {.input = text}).out, from_argument);
}

TEST_F(TokenizeCommand, DecodeIsTheWayBack) {
  const std::string text = "Grüße 中文 \xF0\x9F\x90\xA2 in the\n end ";
  const std::string encoded = ids(text);
  EXPECT_EQ(run_sluice({"tokenize", "-m", files_.model(), "--decode", encoded}).out, text);
  EXPECT_EQ(run_sluice({"tokenize", "-m", files_.model(), "--decode", "-"}, {.input = encoded}).out, text);
  const ProgramResult as_json = run_sluice({"tokenize", "-m", files_.model(), "--decode", encoded, "--json"});
  EXPECT_EQ(json::parse(as_json.out).at("text"), text);
}

TEST_F(TokenizeCommand, JsonPiecesJoinToTheText) {
  const std::string text = "the turtle \xF0\x9F\x90\xA2";  // four tokens, none of them a character
  const ProgramResult result = run_sluice({"tokenize", "-m", files_.model(), "--json", text});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json parsed = json::parse(result.out);
  ASSERT_EQ(parsed.at("ids").size(), parsed.at("pieces").size());
  std::string joined;
  for (const json& piece : parsed.at("pieces")) {
    if (piece.is_string()) {
      joined += piece.get<std::string>();
    } else {
      for (const json& byte : piece) {
        joined += static_cast<char>(byte.get<uint8_t>());
      }
    }
  }
  EXPECT_EQ(joined, text);
}

TEST_F(TokenizeCommand, AnEmptyTextIsAnEmptyLine) {
  EXPECT_EQ(ids(""), "\n");
}

TEST_F(TokenizeCommand, SpecialTokensAreParsedUnlessForbidden) {
  const Model model = Model::load(files_.model());
  const std::string bos = model.tokenizer().token_bytes(0);
  EXPECT_EQ(ids(bos), "0\n");
  EXPECT_NE(ids(bos, "--no-parse-special"), "0\n");
}

TEST_F(TokenizeCommand, HostileInputIsRefused) {
  for (const char* const list : {"", ",", "320", "-1", "1,x", "1.5", "99999999999999999999", "0x10"}) {
    const ProgramResult result =
        run_sluice({"tokenize", "-m", files_.model(), std::string("--decode=") + list});
    EXPECT_NE(result.exit_code, 0) << list;
    EXPECT_EQ(result.out, "");
  }
  const ProgramResult too_large = run_sluice({"tokenize", "-m", files_.model(), "--decode", "5,320"});
  EXPECT_EQ(too_large.exit_code, 1);
  EXPECT_NE(too_large.err.find("0 to 319"), std::string::npos) << too_large.err;
  EXPECT_NE(too_large.err.find("320"), std::string::npos) << too_large.err;
  const ProgramResult invalid = run_sluice({"tokenize", "-m", files_.model()}, {.input = "ab\xFF"});
  EXPECT_EQ(invalid.exit_code, 1);
  EXPECT_EQ(run_sluice({"tokenize", "-m", files_.model(), "-f", files_.path("none.txt")}).exit_code, 1);
  EXPECT_EQ(run_sluice({"tokenize", "-m", files_.model(), "text", "--decode", "1"}).exit_code, 2);
  EXPECT_EQ(run_sluice({"tokenize", "-m", files_.model(), "--bos", "--no-bos", "text"}).exit_code, 2);
}

TEST(TokenizeWithoutTokenizer, SaysWhatIsMissing) {
  Random random;
  SCOPED_TRACE(random.describe());
  const ModelFiles files(ModelFiles::Text::kWithoutTokenizer, random);
  const ProgramResult result = run_sluice({"tokenize", "-m", files.model(), "text"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("tokenizer"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("model.gguf"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace sluice
