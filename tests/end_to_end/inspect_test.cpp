// `sluice inspect` as a user runs it, held against the file itself.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "quant/gguf_reader.h"
#include "support/model_files.h"
#include "support/run_program.h"

namespace sluice {
namespace {

using nlohmann::json;
using testing::ModelFiles;
using testing::ProgramResult;
using testing::Random;
using testing::run_sluice;

class InspectCommand : public ::testing::Test {
 protected:
  Random random_;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, random_.describe()};
  ModelFiles files_{ModelFiles::Text::kWithTokenizer, random_};
};

TEST_F(InspectCommand, TextNamesEveryKeyAndTensor) {
  const ProgramResult result = run_sluice({"inspect", files_.model()});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const quant::GgufFile file = quant::GgufFile::open(files_.model());
  for (const quant::GgufEntry& entry : file.metadata().entries()) {
    EXPECT_NE(result.out.find("  " + entry.key + " "), std::string::npos) << entry.key;
  }
  for (const quant::Tensor& tensor : file.tensors()) {
    EXPECT_NE(result.out.find("  " + tensor.name + " "), std::string::npos) << tensor.name;
  }
  EXPECT_NE(result.out.find("(320 elements)"), std::string::npos);  // tokens, abbreviated
  EXPECT_NE(result.out.find("sparse (indexer in 3 layers, top 8)"), std::string::npos);
}

TEST_F(InspectCommand, JsonAgreesWithTheFile) {
  const ProgramResult result = run_sluice({"inspect", files_.model(), "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json parsed = json::parse(result.out);
  const quant::GgufFile file = quant::GgufFile::open(files_.model());
  EXPECT_EQ(parsed.at("architecture"), "deepseek32");
  EXPECT_EQ(parsed.at("sparse_attention"), true);
  EXPECT_EQ(parsed.at("tokenizer"), true);
  EXPECT_EQ(parsed.at("metadata").size(), file.metadata().entries().size());
  EXPECT_EQ(parsed.at("metadata").at("general.name"), "tiny");
  EXPECT_EQ(parsed.at("metadata").at("tokenizer.ggml.tokens").at("count"), 320);
  ASSERT_EQ(parsed.at("tensors").size(), file.tensors().size());
  size_t bytes = 0;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const quant::Tensor& tensor = file.tensors()[i];
    const json& row = parsed.at("tensors").at(i);
    EXPECT_EQ(row.at("name"), tensor.name);
    EXPECT_EQ(row.at("bytes"), tensor.bytes.size());
    EXPECT_EQ(row.at("shape").at(0), tensor.ne[0]);
    EXPECT_EQ(row.at("shape").size(), static_cast<size_t>(tensor.n_dims));
    bytes += tensor.bytes.size();
  }
  EXPECT_EQ(parsed.at("totals").at("all").at("bytes"), bytes);
  EXPECT_EQ(parsed.at("totals").at("F32").at("bytes").get<size_t>() +
                parsed.at("totals").at("BF16").at("bytes").get<size_t>(),
            bytes);
}

TEST_F(InspectCommand, FullJsonHoldsWholeArrays) {
  const ProgramResult result = run_sluice({"inspect", files_.model(), "--json", "--full"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json parsed = json::parse(result.out);
  EXPECT_EQ(parsed.at("metadata").at("tokenizer.ggml.tokens").size(), 320U);
  EXPECT_EQ(parsed.at("metadata").at("tokenizer.ggml.token_type").size(), 320U);
}

TEST_F(InspectCommand, DamagedFilesAreOneLineErrors) {
  std::ifstream whole(files_.model(), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(whole), std::istreambuf_iterator<char>()};
  for (const size_t length : {size_t{0}, size_t{3}, size_t{24}, size_t{1000}, bytes.size() - 1}) {
    const std::string path = files_.write("cut.gguf", bytes.substr(0, length));
    const ProgramResult result = run_sluice({"inspect", path});
    EXPECT_EQ(result.exit_code, 1) << length;
    EXPECT_NE(result.err.find("cut.gguf"), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  }
  EXPECT_EQ(run_sluice({"inspect", files_.path("none.gguf")}).exit_code, 1);
  EXPECT_EQ(run_sluice({"inspect"}).exit_code, 2);
}

}  // namespace
}  // namespace sluice
