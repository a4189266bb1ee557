// A file that appears only when it is complete: written beside its final name, renamed by commit().
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <span>
#include <string_view>

namespace sluice {

/// Move-only. The destructor of an uncommitted file removes what was written. Files may be used by several
/// threads, each by one at a time.
class OutputFile {
 public:
  enum class Readers {
    kAll,  // whom the process's umask lets
    kOwner,
  };

  /// Opens "<path>.part-<pid>" for writing. Throws Error naming `path` when that fails.
  explicit OutputFile(std::filesystem::path path, Readers readers = Readers::kAll);
  ~OutputFile();
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Throws Error when the disk is full or the write fails.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  [[nodiscard]] int64_t bytes_written() const { return bytes_written_; }
  /// Flushes, syncs, closes and renames to the final path. Throws Error.
  void commit();

  /// Removes what all uncommitted files of the process have written: for a thread that ends the process
  /// without unwinding the others. While the lock is held they can neither open a file nor commit one.
  [[nodiscard]] static std::unique_lock<std::mutex> remove_uncommitted() noexcept;

 private:
  /// False, with errno, when it failed.
  bool rename_part();
  void discard() noexcept;

  std::filesystem::path path_;
  std::filesystem::path part_path_;
  int fd_ = -1;
  int64_t bytes_written_ = 0;
};

}  // namespace sluice
