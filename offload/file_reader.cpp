#include "offload/file_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "quant/base/error.h"

namespace sluice::offload {
namespace {

// Offsets, lengths and addresses of direct reads are multiples of this: the largest block of any disk so far.
constexpr int64_t kBlock = 4096;

constexpr int64_t down_to_block(int64_t offset) {
  return offset / kBlock * kBlock;
}
constexpr int64_t up_to_block(int64_t offset) {
  return (offset + kBlock - 1) / kBlock * kBlock;
}

}  // namespace

void FileReader::Free::operator()(std::byte* memory) const {
  std::free(memory);
}

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
  Buffer buffer = take_buffer(kBlock);
  const bool works = pread(fd_, buffer.memory.get(), kBlock, 0) >= 0;
  give_back(std::move(buffer));
  return works;
}

void FileReader::read(int64_t offset, std::span<std::byte> bytes) const {
  mode_ == ReadMode::kDirect ? read_direct(offset, bytes) : read_buffered(offset, bytes);
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

void FileReader::ends_early(int64_t offset, std::span<std::byte> bytes) const {
  throw Error(path_.string(), fmt::format("{} bytes at byte {}", bytes.size(), offset),
              "the end of the file before");
}

void FileReader::read_direct(int64_t offset, std::span<std::byte> bytes) const {
  const int64_t begin = down_to_block(offset);
  const int64_t skip = offset - begin;
  const int64_t needed = skip + static_cast<int64_t>(bytes.size());
  const int64_t whole = up_to_block(needed);
  Buffer buffer = take_buffer(whole);
  for (int64_t done = 0; done < needed;) {
    // A read may stop anywhere; the next one has to begin at a block again, and repeats some bytes.
    const int64_t from = down_to_block(done);
    const int64_t got = read_some(begin + from, buffer.memory.get() + from, whole - from);
    if (from + got <= done) {
      ends_early(offset, bytes);
    }
    done = from + got;
  }
  if (!bytes.empty()) {
    std::memcpy(bytes.data(), buffer.memory.get() + skip, bytes.size());
  }
  give_back(std::move(buffer));
}

void FileReader::read_buffered(int64_t offset, std::span<std::byte> bytes) const {
  const auto size = static_cast<int64_t>(bytes.size());
  for (int64_t done = 0; done < size;) {
    const int64_t got = read_some(offset + done, bytes.data() + done, size - done);
    if (got == 0) {
      ends_early(offset, bytes);
    }
    done += got;
  }
  posix_fadvise(fd_, offset, size, POSIX_FADV_DONTNEED);  // advice: whether it is taken changes nothing here
}

FileReader::Buffer FileReader::take_buffer(int64_t bytes) const {
  {
    const std::lock_guard lock(mutex_);
    const auto fits = std::ranges::find_if(buffers_, [&](const Buffer& b) { return b.bytes >= bytes; });
    if (fits != buffers_.end()) {
      Buffer buffer = std::move(*fits);
      buffers_.erase(fits);
      return buffer;
    }
    if (!buffers_.empty()) {
      buffers_.pop_back();  // too small: replaced by the new one
    }
  }
  const int64_t rounded = std::max(up_to_block(bytes), kBlock);
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kBlock, static_cast<size_t>(rounded)));
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return {.memory = std::unique_ptr<std::byte, Free>(memory), .bytes = rounded};
}

void FileReader::give_back(Buffer buffer) const {
  const std::lock_guard lock(mutex_);
  buffers_.push_back(std::move(buffer));
}

}  // namespace sluice::offload
