// Large reads of a file at any offset, past the page cache where the file system lets them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <span>
#include <vector>

#include "offload/read_buffer.h"

namespace sluice::offload {

/// kDirect: O_DIRECT. kBuffered: through the page cache, which is told afterwards to forget it.
enum class ReadMode { kDirect, kBuffered };

struct FileToRead {
  std::filesystem::path path;  // names it in errors
  int descriptor = -1;         // of the open file, which is then opened again; else the path is opened
};

class FileReader {
 public:
  /// Direct, unless the file system refuses. Throws Error naming the path when it cannot be opened.
  explicit FileReader(const FileToRead& file);
  /// In this mode only.
  FileReader(const FileToRead& file, ReadMode mode);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] ReadMode mode() const { return mode_; }

  /// Fills `bytes` from `offset` on. By several threads at once. Throws Error naming the path when the file
  /// ends before, or a read fails.
  void read(int64_t offset, std::span<std::byte> bytes) const;
  /// The same into a buffer, and without a copy: returns the `bytes` bytes, which lie somewhere in it.
  [[nodiscard]] std::span<const std::byte> read(int64_t offset, int64_t bytes, ReadBuffer& buffer) const;

 private:
  void open(const FileToRead& file, int flags);
  [[nodiscard]] bool reads_directly() const;
  [[nodiscard]] std::span<const std::byte> read_direct(int64_t offset, int64_t bytes,
                                                       ReadBuffer& buffer) const;
  void read_buffered(int64_t offset, std::span<std::byte> bytes) const;
  int64_t read_some(int64_t offset, std::byte* to, int64_t bytes) const;
  [[noreturn]] void ends_early(int64_t offset, int64_t bytes) const;
  [[nodiscard]] ReadBuffer take_buffer() const;
  void give_back(ReadBuffer buffer) const;

  std::filesystem::path path_;
  ReadMode mode_ = ReadMode::kDirect;
  int fd_ = -1;
  mutable std::mutex mutex_;
  mutable std::vector<ReadBuffer>
      buffers_;  // those that nobody uses now; as many as threads have read at once
};

}  // namespace sluice::offload
