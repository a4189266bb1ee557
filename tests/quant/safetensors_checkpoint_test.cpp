// Checkpoints of one file and of many, with indexes that are right, incomplete, wrong and hostile.
#include <gtest/gtest.h>

#include <fstream>

#include "quant/base/error.h"
#include "quant/safetensors_reader.h"
#include "support/places.h"
#include "support/safetensors_builder.h"
#include "support/temporary_directory.h"

namespace sluice::quant {
namespace {

using nlohmann::json;
using testing::Bytes;
using testing::SafetensorsBuilder;

class SafetensorsCheckpointTest : public ::testing::Test {
 protected:
  // A tensor of one byte.
  void write_file(const std::string& file, std::initializer_list<const char*> names, uint8_t value) {
    SafetensorsBuilder builder;
    for (const char* name : names) builder.add(name, "U8", {1}, Bytes{std::byte{value}});
    builder.write(directory_ / file);
  }
  void write_two_files() {
    write_file("model-00001-of-00002.safetensors", {"b", "a"}, 1);
    write_file("model-00002-of-00002.safetensors", {"c"}, 2);
  }
  void write_index(const std::string& text) {
    std::ofstream(directory_ / "model.safetensors.index.json", std::ios::binary) << text;
  }
  void write_map(const json& weight_map) { write_index(json{{"weight_map", weight_map}}.dump()); }

  [[nodiscard]] std::string refusal(const std::filesystem::path& path) const {
    try {
      SafetensorsCheckpoint::open(path);
    } catch (const Error& error) {
      EXPECT_TRUE(error.subject().starts_with(directory_.path().string())) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "it was opened";
    return {};
  }
  [[nodiscard]] std::string refusal() const { return refusal(directory_.path()); }

  testing::TemporaryDirectory directory_;
};

void expect_contains(const std::string& line, std::string_view part) {
  EXPECT_NE(line.find(part), std::string::npos) << line;
}

TEST_F(SafetensorsCheckpointTest, OpensOneFile) {
  write_two_files();
  const auto checkpoint = SafetensorsCheckpoint::open(directory_ / "model-00001-of-00002.safetensors");
  ASSERT_EQ(checkpoint.tensors().size(), 2U);
  EXPECT_EQ(checkpoint.tensors().begin()->first, "a");
  ASSERT_NE(checkpoint.find("b"), nullptr);
  EXPECT_EQ(checkpoint.find("b")->bytes[0], std::byte{1});
  EXPECT_EQ(checkpoint.find("c"), nullptr);
}

TEST_F(SafetensorsCheckpointTest, OpensADirectoryWithoutAnIndex) {
  write_two_files();
  std::ofstream(directory_ / "config.json") << "{}";
  SafetensorsCheckpoint checkpoint = SafetensorsCheckpoint::open(directory_.path());
  ASSERT_EQ(checkpoint.tensors().size(), 3U);
  const SafetensorsCheckpoint moved = std::move(checkpoint);
  EXPECT_EQ(moved.find("c")->bytes[0], std::byte{2});
  EXPECT_EQ(moved.find("a")->bytes[0], std::byte{1});
}

TEST_F(SafetensorsCheckpointTest, FindsTensorsThatTheIndexOmits) {
  write_two_files();
  write_map({{"a", "model-00001-of-00002.safetensors"}});
  EXPECT_EQ(SafetensorsCheckpoint::open(directory_.path()).tensors().size(), 3U);
  write_map(json::object());
  EXPECT_EQ(SafetensorsCheckpoint::open(directory_.path()).tensors().size(), 3U);
}

TEST_F(SafetensorsCheckpointTest, NamesWrongPlacements) {
  write_two_files();
  write_map({{"c", "model-00001-of-00002.safetensors"}});
  const std::string wrong = refusal();
  expect_contains(wrong, "model.safetensors.index.json: tensor \"c\"");
  expect_contains(wrong, "expected it in model-00001-of-00002.safetensors");
  expect_contains(wrong, "found it in model-00002-of-00002.safetensors");
  write_map({{"d", "model-00001-of-00002.safetensors"}});
  expect_contains(refusal(), "found it in no file");
}

TEST_F(SafetensorsCheckpointTest, NamesFilesThatAreMissing) {
  write_two_files();
  write_map({{"c", "model-00003-of-00003.safetensors"}});
  expect_contains(refusal(), "found \"model-00003-of-00003.safetensors\"");
}

TEST_F(SafetensorsCheckpointTest, RefusesPathsOutOfTheDirectory) {
  write_two_files();
  std::filesystem::create_directory(directory_ / "deeper");
  write_file("deeper/model.safetensors", {"c"}, 3);
  const std::string absolute = (directory_ / "model-00002-of-00002.safetensors").string();
  for (const std::string& name :
       {std::string("deeper/model.safetensors"), std::string("deeper/../model-00002-of-00002.safetensors"),
        std::string("./model-00002-of-00002.safetensors"), std::string("../x.safetensors"), absolute,
        std::string(".."), std::string(), std::string("model-00002-of-00002.safetensors\0", 33)}) {
    SCOPED_TRACE(name);
    write_map({{"c", name}});
    expect_contains(refusal(), "the name of a .safetensors file in the same directory");
  }
}

TEST_F(SafetensorsCheckpointTest, RefusesBrokenIndexes) {
  write_two_files();
  for (const char* text : {"", "{", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":1}})",
                           R"({"weight_map":{"a":null}})", R"({"weight_map":{},"weight_map":{}})"}) {
    SCOPED_TRACE(text);
    write_index(text);
    expect_contains(refusal(), "model.safetensors.index.json");
  }
}

TEST_F(SafetensorsCheckpointTest, RefusesTensorsThatTwoFilesHold) {
  write_two_files();
  write_file("model-00003-of-00003.safetensors", {"d", "a"}, 3);
  const std::string line = refusal();
  expect_contains(line, "\"a\"");
  expect_contains(line, "model-00001-of-00002.safetensors");
  expect_contains(line, "model-00003-of-00003.safetensors");
}

TEST_F(SafetensorsCheckpointTest, NamesTheFileThatIsBroken) {
  write_two_files();
  std::filesystem::resize_file(directory_ / "model-00002-of-00002.safetensors", 20);
  expect_contains(refusal(), "model-00002-of-00002.safetensors");
}

TEST_F(SafetensorsCheckpointTest, RefusesPathsWithNothingToRead) {
  expect_contains(refusal(), "a .safetensors file in this directory");
  expect_contains(refusal(directory_ / "absent.safetensors"), "absent.safetensors");
  std::filesystem::create_directory(directory_ / "directory.safetensors");
  expect_contains(refusal(), "directory.safetensors");
  std::ofstream(directory_ / "empty") << "";
  expect_contains(refusal(directory_ / "empty"), "0 bytes");
}

TEST_F(SafetensorsCheckpointTest, RefusesAHeaderOfMoreThanTheFormatAllows) {
  constexpr uint64_t kLength = 100'000'001;
  std::ofstream(directory_ / "x.safetensors", std::ios::binary)
      .write(reinterpret_cast<const char*>(&kLength), sizeof(kLength));
  std::filesystem::resize_file(directory_ / "x.safetensors", kLength + 100);  // sparse
  const std::string line = refusal();
  expect_contains(line, "at most 100000000 bytes");
  expect_contains(line, "100000001");
}

TEST(SafetensorsCheckpoint, OpensTheTinyModel) {
  const std::filesystem::path directory = testing::source_directory() / "../shared/models/tiny";
  if (!std::filesystem::exists(directory / "model.safetensors.index.json")) {
    GTEST_SKIP() << directory << " is absent";
  }
  const auto checkpoint = SafetensorsCheckpoint::open(directory);
  const json index = json::parse(std::ifstream(directory / "model.safetensors.index.json"));
  for (const auto& [name, file] : index.at("weight_map").items()) {
    EXPECT_NE(checkpoint.find(name), nullptr) << name;
  }
  int64_t bytes = 0;
  for (const auto& [name, tensor] : checkpoint.tensors()) bytes += std::ssize(tensor.bytes);
  EXPECT_EQ(bytes, index.at("metadata").at("total_size").get<int64_t>());
}

}  // namespace
}  // namespace sluice::quant
