// A directory of its own for a test, removed at the end.
#pragma once

#include <filesystem>
#include <string>

namespace sluice::testing {

class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  /// Names of the entries, sorted: to see that nothing was left behind.
  [[nodiscard]] std::string listing() const;

 private:
  std::filesystem::path path_;
};

}  // namespace sluice::testing
