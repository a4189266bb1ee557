// Writes beside the final name, then renames: POSIX calls, because the standard streams cannot sync and hide
// why a write failed.
#include "quant/base/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <mutex>
#include <set>
#include <utility>

#include "quant/base/error.h"

namespace sluice {
namespace {

// Of these the process's umask takes away.
constexpr mode_t kForAll = 0666;
constexpr mode_t kForOwner = 0600;
// Linux moves no more than this in one call.
constexpr size_t kLargestWrite = size_t{1} << 30;

// A rename onto a directory would fail only after the work is done; one onto a device would replace the
// device.
void require_replaceable(const std::filesystem::path& path) {
  if (!path.has_filename()) {
    throw Error(path.string(), "a file name to write to", "a path without one");
  }
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || S_ISREG(status.st_mode)) {
    return;
  }
  throw Error(path.string(), "a new or regular file to write to",
              S_ISDIR(status.st_mode) ? "a directory" : "a special file");
}

// What is on disk under a name that commit() will change.
struct UncommittedFiles {
  std::mutex mutex;  // held while such a name appears or goes
  std::set<std::filesystem::path> paths;
};

UncommittedFiles& uncommitted_files() {
  static UncommittedFiles files;
  return files;
}

// After a crash the directory must hold the new name. Best effort: not every file system can do it.
void sync_directory_of(const std::filesystem::path& path) {
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  const int fd = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    static_cast<void>(::fsync(fd));
    ::close(fd);
  }
}

}  // namespace

OutputFile::OutputFile(std::filesystem::path path, Readers readers) : path_(std::move(path)) {
  require_replaceable(path_);
  part_path_ = path_;
  part_path_ += fmt::format(".part-{}", ::getpid());
  const std::scoped_lock lock(uncommitted_files().mutex);
  uncommitted_files().paths.insert(part_path_);
  fd_ = ::open(part_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
               readers == Readers::kOwner ? kForOwner : kForAll);
  if (fd_ < 0) {
    const int error_number = errno;
    uncommitted_files().paths.erase(part_path_);
    throw Error(path_.string(), "a path that can be written", system_error_text(error_number));
  }
}

OutputFile::~OutputFile() {
  discard();
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      part_path_(std::move(other.part_path_)),
      fd_(std::exchange(other.fd_, -1)),
      bytes_written_(other.bytes_written_) {}

void OutputFile::write(std::span<const std::byte> bytes) {
  assert(fd_ >= 0);  // neither committed nor moved from
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), std::min(bytes.size(), kLargestWrite));
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      throw Error(path_.string(), fmt::format("room to write byte {}", bytes_written_),
                  system_error_text(errno));
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
    bytes_written_ += written;
  }
}

void OutputFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text)));
}

void OutputFile::commit() {
  assert(fd_ >= 0);  // neither committed nor moved from
  const auto refuse_unless = [this](bool done) {
    if (!done) {
      const int error_number = errno;
      discard();
      throw Error(path_.string(), "a complete file on disk", system_error_text(error_number));
    }
  };
  // EINVAL: a file system that has nothing to sync.
  refuse_unless(::fsync(fd_) == 0 || errno == EINVAL);
  // The descriptor stays owned until the rename, so that a failure still discards.
  refuse_unless(rename_part());
  ::close(std::exchange(fd_, -1));  // synced above: nothing is left that could fail
  sync_directory_of(path_);
}

bool OutputFile::rename_part() {
  const std::scoped_lock lock(uncommitted_files().mutex);
  if (::rename(part_path_.c_str(), path_.c_str()) != 0) {
    return false;
  }
  uncommitted_files().paths.erase(part_path_);
  return true;
}

void OutputFile::discard() noexcept {
  if (fd_ >= 0) {
    ::close(std::exchange(fd_, -1));
    const std::scoped_lock lock(uncommitted_files().mutex);
    if (uncommitted_files().paths.erase(part_path_) > 0) {
      ::unlink(part_path_.c_str());
    }
  }
}

std::unique_lock<std::mutex> OutputFile::remove_uncommitted() noexcept {
  UncommittedFiles& files = uncommitted_files();
  std::unique_lock lock(files.mutex);
  for (const std::filesystem::path& path : files.paths) {
    ::unlink(path.c_str());
  }
  files.paths.clear();
  return lock;
}

}  // namespace sluice
