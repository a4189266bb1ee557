// Mapped files show the bytes on disk; what cannot be mapped is refused by name.
#include "quant/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <string>
#include <utility>

#include "support/error_text.h"
#include "support/temporary_directory.h"

namespace sluice::quant {
namespace {

using ::testing::AllOf;
using testing::error_text;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, ShowsTheBytes) {
  const TemporaryDirectory directory;
  const std::string text = std::string("first\0second\n", 13) + std::string(10000, 'x');
  std::ofstream(directory / "file") << text;
  EXPECT_EQ(text_of(MappedFile(directory / "file")), text);
}

TEST(MappedFile, AnEmptyFileIsAnEmptySpan) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "file").flush();
  EXPECT_TRUE(MappedFile(directory / "file").bytes().empty());
}

TEST(MappedFile, MovesWithoutLosingTheMapping) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "a") << "aaaa";
  std::ofstream(directory / "b") << "bb";
  MappedFile first(directory / "a");
  const std::byte* address = first.bytes().data();
  MappedFile second(std::move(first));
  EXPECT_EQ(second.bytes().data(), address);
  MappedFile third(directory / "b");
  third = std::move(second);
  EXPECT_EQ(text_of(third), "aaaa");
  EXPECT_EQ(third.bytes().data(), address);
}

TEST(MappedFile, OutlivesTheNameOnDisk) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "a") << "old";
  std::ofstream(directory / "b") << "new";
  const MappedFile file(directory / "a");
  std::filesystem::rename(directory / "b", directory / "a");
  EXPECT_EQ(text_of(file), "old");
}

TEST(MappedFile, RefusesWhatIsNoRegularFile) {
  const TemporaryDirectory directory;
  ASSERT_EQ(::mkfifo((directory / "pipe").c_str(), 0600), 0);
  const auto refusal = [](const std::filesystem::path& path) {
    return error_text([&] { MappedFile file(path); });
  };
  EXPECT_THAT(refusal(directory / "absent"),
              AllOf(HasSubstr((directory / "absent").string()), HasSubstr("No such file")));
  EXPECT_THAT(refusal(directory.path()),
              AllOf(HasSubstr(directory.path().string()), HasSubstr("a directory")));
  EXPECT_THAT(refusal(directory / "pipe"), HasSubstr("a special file"));
  EXPECT_THAT(refusal("/dev/zero"), HasSubstr("a special file"));
}

TEST(MappedFile, ALostPageIsToldByFileAndByte) {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory / "file";
  std::ofstream(path) << std::string(10000, 'x');
  const int elsewhere = 0;
  EXPECT_FALSE(lost_page_error(&elsewhere).has_value());
  const std::byte* after = nullptr;
  {
    const MappedFile file(path);
    after = file.bytes().data();
    EXPECT_FALSE(lost_page_error(after + 10000).has_value());
    EXPECT_STREQ(
        lost_page_error(after + 9999).value().what(),
        (path.string() + ": expected 10000 bytes, as when it was opened, to read byte 9999 of, found a "
                         "read that failed (the disk, or the network it comes over)")
            .c_str());
    std::filesystem::resize_file(path, 5000);
    EXPECT_STREQ(
        lost_page_error(after + 9999).value().what(),
        (path.string() + ": expected 10000 bytes, as when it was opened, to read byte 9999 of, found "
                         "5000 bytes: it was cut meanwhile")
            .c_str());
  }
  EXPECT_FALSE(lost_page_error(after).has_value());
}

}  // namespace
}  // namespace sluice::quant
