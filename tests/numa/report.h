// One line per check on standard output, and how many failed.
#pragma once

#include <cstdint>
#include <string_view>

namespace sluice::testing {

class Report {
 public:
  /// A report that prints nothing: for showing that a check can fail.
  static Report silent() { return Report(Output::kNone); }
  Report() = default;

  /// Prints "ok      WHAT: FOUND", or FAILED in place of ok.
  void check(bool passed, std::string_view what, std::string_view found);
  void check_equal(std::string_view what, int64_t expected, int64_t found);

  [[nodiscard]] int64_t failures() const { return failures_; }

 private:
  enum class Output { kNone, kLines };
  explicit Report(Output output) : output_(output) {}

  Output output_ = Output::kLines;
  int64_t failures_ = 0;
};

}  // namespace sluice::testing
