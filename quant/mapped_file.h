// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>

#include "quant/base/error.h"

namespace sluice::quant {

/// Move-only owner of a read-only mapping. An empty file maps to an empty span.
class MappedFile {
 public:
  /// Throws Error naming the path when it cannot be opened, is no regular file, or cannot be mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Open as long as this lives: it names this very file even when another has taken the path.
  [[nodiscard]] int descriptor() const { return descriptor_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// What is wrong when a byte of a mapping cannot be read: the file was cut after it was mapped, or the disk
/// failed. The system tells with SIGBUS, and `address` is the signal's. Empty when no MappedFile has the
/// address. For a handler of that signal, too: it comes to a thread that reads a mapping, and none does so
/// while it holds a lock that is needed here.
[[nodiscard]] std::optional<Error> lost_page_error(const void* address);

}  // namespace sluice::quant
