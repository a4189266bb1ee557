// Output files appear whole or not at all, and every failure names the path.
#include "quant/base/output_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "support/error_text.h"
#include "support/gguf_builder.h"
#include "support/temporary_directory.h"

namespace sluice {
namespace {

using testing::as_file;
using testing::error_text;
using ::testing::HasSubstr;
using testing::load_text;
using testing::TemporaryDirectory;

// Limits the size of files this process writes: what a full disk does, without one.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &before_), 0);
    const rlimit limit{bytes, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(OutputFile, AppearsAtCommitWithTheBytesWritten) {
  const TemporaryDirectory directory;
  OutputFile file(directory / "out.bin");
  file.write("abc");
  file.write(as_file(std::string("\0def", 4)));
  EXPECT_EQ(file.bytes_written(), 7);
  EXPECT_FALSE(std::filesystem::exists(directory / "out.bin"));
  EXPECT_THAT(directory.listing(), HasSubstr(".part-" + std::to_string(::getpid())));
  file.commit();
  EXPECT_EQ(load_text(directory / "out.bin"), std::string("abc\0def", 7));
  EXPECT_EQ(directory.listing().find("part"), std::string::npos);
}

TEST(OutputFile, WithoutCommitNothingIsLeft) {
  const TemporaryDirectory directory;
  {
    OutputFile file(directory / "out.bin");
    file.write("half");
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  try {
    OutputFile file(directory / "out.bin");
    file.write("half");
    throw std::runtime_error("elsewhere");
  } catch (const std::runtime_error&) {
    EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  }
}

TEST(OutputFile, KeepsTheOldFileUntilCommit) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "out.bin") << "old";
  {
    OutputFile file(directory / "out.bin");
    file.write("new");
  }
  EXPECT_EQ(load_text(directory / "out.bin"), "old");
  OutputFile file(directory / "out.bin");
  file.write("new");
  file.commit();
  EXPECT_EQ(load_text(directory / "out.bin"), "new");
}

TEST(OutputFile, MovingHandsOverTheDuty) {
  const TemporaryDirectory directory;
  OutputFile last = [&] {
    OutputFile first(directory / "out.bin");
    first.write("one ");
    return OutputFile(std::move(first));
  }();
  EXPECT_EQ(last.bytes_written(), 4);
  last.write("two");
  last.commit();
  EXPECT_EQ(load_text(directory / "out.bin"), "one two");
}

TEST(OutputFile, HasThePermissionsThatTheUmaskLeaves) {
  const TemporaryDirectory directory;
  const mode_t before = ::umask(027);
  OutputFile file(directory / "out.bin");
  file.commit();
  ::umask(before);
  struct stat status {};
  ASSERT_EQ(::stat((directory / "out.bin").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0640U);
}

TEST(OutputFile, MayBeTheOwnersAlone) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "out.bin") << "readable by all";
  const mode_t before = ::umask(022);
  OutputFile file(directory / "out.bin", OutputFile::Readers::kOwner);
  file.write("secret");
  file.commit();
  ::umask(before);
  struct stat status {};
  ASSERT_EQ(::stat((directory / "out.bin").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST(OutputFile, RefusesPathsThatCannotBeWritten) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "plain") << "x";
  std::filesystem::create_directory(directory / "folder");
  const auto refusal = [](const std::filesystem::path& path) {
    return error_text([&] { OutputFile file(path); });
  };
  const std::string missing = (directory / "absent" / "out.bin").string();
  EXPECT_THAT(refusal(missing), HasSubstr(missing + ": expected a path that can be written"));
  EXPECT_THAT(refusal(missing), HasSubstr("No such file"));
  EXPECT_THAT(refusal(directory / "plain" / "out.bin"), HasSubstr("Not a directory"));
  EXPECT_THAT(refusal(directory / "folder"), HasSubstr("found a directory"));
  EXPECT_THAT(refusal(directory / "folder" / ""), HasSubstr("a file name"));
  EXPECT_THAT(refusal("/dev/null"), HasSubstr("found a special file"));
  EXPECT_THAT(refusal(""), HasSubstr("a file name"));
}

TEST(OutputFile, RefusesADirectoryWithoutWritePermission) {
  if (::geteuid() == 0) {
    GTEST_SKIP() << "root may write everywhere";
  }
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "locked");
  std::filesystem::permissions(directory / "locked", std::filesystem::perms::owner_read);
  EXPECT_THAT(error_text([&] { OutputFile file(directory / "locked" / "out.bin"); }),
              HasSubstr("Permission denied"));
  std::filesystem::permissions(directory / "locked", std::filesystem::perms::owner_all);
}

TEST(OutputFile, AFullDiskIsAnErrorAndLeavesNothing) {
  const TemporaryDirectory directory;
  {
    OutputFile file(directory / "out.bin");
    const FileSizeLimit limit(1000);
    const std::string text = error_text([&] { file.write(std::string(5000, 'x')); });
    EXPECT_THAT(text, HasSubstr((directory / "out.bin").string()));
    EXPECT_THAT(text, HasSubstr("byte 1000"));  // the first 1000 went in before it
    EXPECT_THAT(text, HasSubstr("File too large"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(OutputFile, RemoveUncommittedTakesEveryPartAndNothingElse) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "second.bin") << "old";
  OutputFile committed(directory / "first.bin");
  committed.commit();
  OutputFile moved_from(directory / "second.bin");
  moved_from.write("new");
  OutputFile second(std::move(moved_from));
  OutputFile third(directory / "third.bin");
  {
    const auto lock = OutputFile::remove_uncommitted();
    EXPECT_EQ(directory.listing().find("part"), std::string::npos) << directory.listing();
  }
  EXPECT_EQ(load_text(directory / "second.bin"), "old");
  EXPECT_THAT(error_text([&] { second.commit(); }), HasSubstr("second.bin"));  // it has no name any more
  EXPECT_EQ(load_text(directory / "second.bin"), "old");
  EXPECT_TRUE(std::filesystem::exists(directory / "first.bin"));
  EXPECT_FALSE(std::filesystem::exists(directory / "third.bin"));
}

TEST(OutputFile, NoneIsCommittedWhileTheLockIsHeld) {
  const TemporaryDirectory directory;
  OutputFile file(directory / "out.bin");
  std::atomic<bool> ended = false;
  std::unique_lock<std::mutex> lock = OutputFile::remove_uncommitted();
  std::thread thread([&] {
    const std::string text = error_text([&] { OutputFile(directory / "other.bin").commit(); });
    EXPECT_EQ(text, "no error");
    ended = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // too short only hides a failure
  EXPECT_FALSE(ended);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  lock.unlock();
  thread.join();
  EXPECT_TRUE(std::filesystem::exists(directory / "other.bin"));
}

TEST(OutputFile, AFailedCommitIsAnErrorAndLeavesNothing) {
  const TemporaryDirectory directory;
  OutputFile file(directory / "out.bin");
  file.write("x");
  std::filesystem::create_directory(directory / "out.bin");  // after the check at opening
  EXPECT_THAT(error_text([&] { file.commit(); }), HasSubstr((directory / "out.bin").string()));
  EXPECT_EQ(directory.listing().find("part"), std::string::npos);
}

}  // namespace
}  // namespace sluice
