#include "tests/numa/report.h"

#include <fmt/format.h>

namespace sluice::testing {

void Report::check(bool passed, std::string_view what, std::string_view found) {
  failures_ += passed ? 0 : 1;
  if (output_ == Output::kLines) {
    fmt::print("{:6}  {}: {}\n", passed ? "ok" : "FAILED", what, found);
  }
}

void Report::check_equal(std::string_view what, int64_t expected, int64_t found) {
  const bool passed = found == expected;
  check(passed, what,
        passed ? fmt::format("{}", found) : fmt::format("expected {}, found {}", expected, found));
}

}  // namespace sluice::testing
