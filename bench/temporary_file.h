// A file that is gone when its owner is.
#pragma once

#include <filesystem>
#include <system_error>
#include <utility>

namespace sluice::bench {

struct TemporaryFile {
  explicit TemporaryFile(std::filesystem::path file) : path(std::move(file)) {}
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::filesystem::path path;
};

}  // namespace sluice::bench
