#include "offload/file_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "quant/base/error.h"

namespace sluice::offload {
namespace {

constexpr int64_t down_to_block(int64_t offset) {
  return offset / kReadBlock * kReadBlock;
}
constexpr int64_t up_to_block(int64_t offset) {
  return (offset + kReadBlock - 1) / kReadBlock * kReadBlock;
}

}  // namespace

FileReader::FileReader(const FileToRead& file) : path_(file.path) {
  open(file, O_DIRECT);
  // Some file systems take the flag and refuse the read.
  if (fd_ < 0 || !reads_directly()) {
    if (fd_ >= 0) {
      close(fd_);
    }
    mode_ = ReadMode::kBuffered;
    open(file, 0);
  }
  if (fd_ < 0) {
    throw Error(path_.string(), "a readable file", system_error_text(errno));
  }
}

FileReader::FileReader(const FileToRead& file, ReadMode mode) : path_(file.path), mode_(mode) {
  open(file, mode == ReadMode::kDirect ? O_DIRECT : 0);
  if (fd_ < 0) {
    throw Error(path_.string(),
                mode == ReadMode::kDirect ? "a file that can be read past the page cache" : "a readable file",
                system_error_text(errno));
  }
}

FileReader::~FileReader() {
  if (fd_ >= 0) {
    close(fd_);
  }
}

// O_DIRECT belongs to an open file, not to a descriptor: a file that is open already is opened once more.
void FileReader::open(const FileToRead& file, int flags) {
  const std::string path =
      file.descriptor >= 0 ? fmt::format("/proc/self/fd/{}", file.descriptor) : file.path.string();
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
}

bool FileReader::reads_directly() const {
  ReadBuffer buffer;
  return pread(fd_, buffer.first(kReadBlock).data(), kReadBlock, 0) >= 0;
}

void FileReader::read(int64_t offset, std::span<std::byte> bytes) const {
  if (mode_ == ReadMode::kBuffered) {
    read_buffered(offset, bytes);
    return;
  }
  ReadBuffer buffer = take_buffer();
  const auto read = read_direct(offset, static_cast<int64_t>(bytes.size()), buffer);
  std::ranges::copy(read, bytes.begin());
  give_back(std::move(buffer));
}

std::span<const std::byte> FileReader::read(int64_t offset, int64_t bytes, ReadBuffer& buffer) const {
  if (mode_ == ReadMode::kDirect) {
    return read_direct(offset, bytes, buffer);
  }
  const std::span<std::byte> to = buffer.first(bytes);
  read_buffered(offset, to);
  return to;
}

// At least one byte, or 0 at the end of the file.
int64_t FileReader::read_some(int64_t offset, std::byte* to, int64_t bytes) const {
  for (;;) {
    const ssize_t got = pread(fd_, to, static_cast<size_t>(bytes), offset);
    if (got >= 0) {
      return got;
    }
    if (errno != EINTR) {
      throw Error(path_.string(), fmt::format("{} readable bytes at byte {}", bytes, offset),
                  system_error_text(errno));
    }
  }
}

void FileReader::ends_early(int64_t offset, int64_t bytes) const {
  throw Error(path_.string(), fmt::format("{} bytes at byte {}", bytes, offset),
              "the end of the file before");
}

std::span<const std::byte> FileReader::read_direct(int64_t offset, int64_t bytes, ReadBuffer& buffer) const {
  const int64_t begin = down_to_block(offset);
  const int64_t skip = offset - begin;
  const int64_t needed = skip + bytes;
  const int64_t whole = up_to_block(needed);
  const std::span<std::byte> memory = buffer.first(whole);
  for (int64_t done = 0; done < needed;) {
    // A read may stop anywhere; the next one has to begin at a block again, and repeats some bytes.
    const int64_t from = down_to_block(done);
    const int64_t got = read_some(begin + from, memory.data() + from, whole - from);
    if (from + got <= done) {
      ends_early(offset, bytes);
    }
    done = from + got;
  }
  return memory.subspan(static_cast<size_t>(skip), static_cast<size_t>(bytes));
}

void FileReader::read_buffered(int64_t offset, std::span<std::byte> bytes) const {
  const auto size = static_cast<int64_t>(bytes.size());
  for (int64_t done = 0; done < size;) {
    const int64_t got = read_some(offset + done, bytes.data() + done, size - done);
    if (got == 0) {
      ends_early(offset, size);
    }
    done += got;
  }
  posix_fadvise(fd_, offset, size, POSIX_FADV_DONTNEED);  // advice: whether it is taken changes nothing here
}

ReadBuffer FileReader::take_buffer() const {
  const std::lock_guard lock(mutex_);
  if (buffers_.empty()) {
    return {};
  }
  ReadBuffer buffer = std::move(buffers_.back());
  buffers_.pop_back();
  return buffer;
}

void FileReader::give_back(ReadBuffer buffer) const {
  const std::lock_guard lock(mutex_);
  buffers_.push_back(std::move(buffer));
}

}  // namespace sluice::offload
