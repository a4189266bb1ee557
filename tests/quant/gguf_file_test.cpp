// Opening model files: shards are found beside the first, and a set that does not fit together is refused
// with the name of the file at fault.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "quant/gguf_reader.h"
#include "support/error_text.h"
#include "support/gguf_builder.h"
#include "support/temporary_directory.h"

namespace sluice::quant {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using testing::error_text;
using testing::GgufBuilder;
using ::testing::HasSubstr;
using testing::raw;
using testing::TemporaryDirectory;

const std::string kFirst = "m-00001-of-00003.gguf";
const std::string kSecond = "m-00002-of-00003.gguf";
const std::string kThird = "m-00003-of-00003.gguf";

GgufBuilder shard(uint16_t number, std::optional<int32_t> total = {}) {
  GgufBuilder built;
  built.shard(number, 3, total);
  return built;
}

// Three shards with a, b, c and d; a test overwrites what it wants wrong.
class GgufShards : public ::testing::Test {
 protected:
  GgufShards() {
    shard(0, 4).entry("name", GgufType::kU32, raw(uint32_t{7})).ramp("a", 2).save(directory_ / kFirst);
    shard(1, 4).ramp("b", 3).ramp("c", 1).save(directory_ / kSecond);
    shard(2).ramp("d", 4).save(directory_ / kThird);
  }

  [[nodiscard]] std::string refusal(const std::string& name = kFirst) const {
    return error_text([&] { return GgufFile::open(directory_ / name); });
  }
  [[nodiscard]] std::string path(const std::string& name) const { return (directory_ / name).string(); }

  TemporaryDirectory directory_;
};

TEST_F(GgufShards, AreReadAsOneFile) {
  GgufFile opened = GgufFile::open(directory_ / kFirst);
  const GgufFile file = std::move(opened);  // views must survive it
  EXPECT_EQ(file.path(), directory_ / kFirst);
  EXPECT_EQ(file.version(), 3U);
  EXPECT_EQ(file.shard_count(), 3);
  EXPECT_EQ(file.metadata().get<uint32_t>("name"), 7U);
  ASSERT_EQ(file.tensors().size(), 4U);
  const std::pair<const char*, int64_t> expected[] = {{"a", 2}, {"b", 3}, {"c", 1}, {"d", 4}};
  for (size_t i = 0; i < 4; ++i) {
    const auto& [name, n] = expected[i];
    EXPECT_EQ(file.tensors()[i].name, name);
    ASSERT_EQ(file.find(name), &file.tensors()[i]);
    float last = -1.0F;
    std::memcpy(&last, file.tensors()[i].bytes.data() + 4 * (n - 1), 4);
    EXPECT_EQ(last, static_cast<float>(n - 1)) << name;
    EXPECT_EQ(file.path_of(file.tensors()[i]), directory_ / (i == 0 ? kFirst : i == 3 ? kThird : kSecond));
  }
  EXPECT_EQ(file.find("e"), nullptr);
}

TEST_F(GgufShards, TheFirstMayHoldMetadataOnly) {
  shard(0, 3).save(directory_ / kFirst);
  EXPECT_EQ(GgufFile::open(directory_ / kFirst).tensors().size(), 3U);
}

TEST_F(GgufShards, RefuseAMissingOne) {
  std::filesystem::remove(directory_ / kSecond);
  EXPECT_EQ(refusal(), path(kSecond) + ": expected shard 2 of 3, found No such file or directory");
}

TEST_F(GgufShards, RefuseToStartElsewhereThanAtTheFirst) {
  EXPECT_EQ(refusal(kSecond), path(kSecond) + ": expected the path of shard 1 of 3, found shard 2");
}

TEST_F(GgufShards, RefuseANameThatDoesNotLeadToTheOthers) {
  for (const std::string name : {"model.gguf", "m-00001-of-00004.gguf", "m-1-of-3.gguf"}) {
    std::filesystem::copy(directory_ / kFirst, directory_ / name);
    EXPECT_THAT(refusal(name), AllOf(HasSubstr(path(name)), HasSubstr("-00001-of-00003.gguf")));
  }
}

TEST_F(GgufShards, RefuseAWrongNumberOrCount) {
  shard(2).ramp("b", 3).ramp("c", 1).save(directory_ / kSecond);
  EXPECT_EQ(refusal(), path(kSecond) + ": key split.no: expected 1, found 2");
  GgufBuilder of_four;
  of_four.shard(1, 4, {}).ramp("b", 3).save(directory_ / kSecond);
  EXPECT_EQ(refusal(), path(kSecond) + ": key split.count: expected 3, found 4");
  GgufBuilder{}.ramp("b", 3).save(directory_ / kSecond);
  EXPECT_EQ(refusal(), path(kSecond) + ": key split.no: expected type u16, found no such key");
}

TEST_F(GgufShards, RefuseAWrongTotal) {
  shard(0, 5).ramp("a", 2).save(directory_ / kFirst);
  EXPECT_EQ(refusal(), path(kFirst) + ": key split.tensors.count: expected 4, found 5");
  shard(0).ramp("a", 2).save(directory_ / kFirst);
  EXPECT_THAT(refusal(), EndsWith("key split.tensors.count: expected type i32, found no such key"));
}

TEST_F(GgufShards, RefuseKeysOfOtherTypes) {
  GgufBuilder built;
  built.entry("split.count", GgufType::kU32, raw(uint32_t{3})).save(directory_ / kFirst);
  EXPECT_EQ(refusal(), path(kFirst) + ": key split.count: expected type u16, found type u32");
}

TEST_F(GgufShards, RefuseANameInTwoOfThem) {
  shard(2).ramp("a", 4).save(directory_ / kThird);
  EXPECT_THAT(refusal(), HasSubstr(path(kThird) + ": tensor a: expected each tensor in one shard"));
}

TEST_F(GgufShards, RefuseToReferToThemselves) {
  std::filesystem::remove(directory_ / kSecond);
  std::filesystem::create_symlink(directory_ / kFirst, directory_ / kSecond);
  EXPECT_THAT(refusal(), AllOf(HasSubstr(path(kSecond) + ": expected shard 2 of 3 in a file of its own"),
                               HasSubstr("the file of " + path(kFirst))));
  std::filesystem::remove(directory_ / kSecond);
  std::filesystem::create_hard_link(directory_ / kFirst, directory_ / kSecond);
  EXPECT_EQ(refusal(), path(kSecond) + ": key split.no: expected 1, found 0");
  std::filesystem::remove(directory_ / kSecond);
  std::filesystem::create_symlink(directory_ / kThird, directory_ / kSecond);
  std::filesystem::remove(directory_ / kThird);
  std::filesystem::create_symlink(directory_ / kSecond, directory_ / kThird);
  EXPECT_THAT(refusal(), HasSubstr(path(kSecond)));  // a loop of links
}

TEST_F(GgufShards, RefuseADamagedOneByItsName) {
  std::filesystem::resize_file(directory_ / kThird, 50);
  EXPECT_THAT(refusal(), HasSubstr(path(kThird)));
}

TEST(GgufFile, AMergedFileKeepsACountOfZero) {
  const TemporaryDirectory directory;
  GgufBuilder built;
  built.shard(0, 0, 9).ramp("a", 2).save(directory / "merged.gguf");
  EXPECT_EQ(GgufFile::open(directory / "merged.gguf").shard_count(), 1);
}

TEST(GgufFile, NamesAFileThatIsNotThere) {
  const TemporaryDirectory directory;
  EXPECT_THAT(error_text([&] { return GgufFile::open(directory / "x.gguf"); }),
              HasSubstr((directory / "x.gguf").string()));
}

}  // namespace
}  // namespace sluice::quant
