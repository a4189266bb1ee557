// The one error type of the project: what was looked at, what was expected there, what was found.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace sluice {

/// Bad input, a full disk, a limit: anything a user can cause or mend. Programmer errors are asserts.
/// `what()` is one line: "SUBJECT: expected EXPECTED, found FOUND".
class Error : public std::runtime_error {
 public:
  /// subject   the file, tensor, key or flag that is wrong, e.g. "model.gguf: tensor blk.3.attn_q_a.weight"
  /// expected  what would have been right, e.g. "type F32"
  /// found     what is there, e.g. "type Q8_0"
  Error(std::string_view subject, std::string_view expected, std::string_view found);

  [[nodiscard]] const std::string& subject() const { return subject_; }
  [[nodiscard]] const std::string& expected() const { return expected_; }
  [[nodiscard]] const std::string& found() const { return found_; }

 private:
  std::string subject_;
  std::string expected_;
  std::string found_;
};

/// Text for `found` from an errno value, e.g. "No such file or directory".
std::string system_error_text(int error_number);

}  // namespace sluice
