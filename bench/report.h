// The lines of the guards: a name, what was measured, the floor or rival measured beside it, their ratio, the
// bar, and `ok` or `short`.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <string_view>

namespace sluice::bench {

enum class Bar { kAtLeast, kAtMost };

class Report {
 public:
  static void head() {
    fmt::print("{:<44} {:>16} {:>24} {:>7}  {:<8}\n", "bar", "measured", "floor or rival", "ratio", "bar");
  }
  void line(std::string_view name, std::string_view measured, std::string_view floor, double ratio, Bar kind,
            double bar) {
    const bool ok = kind == Bar::kAtLeast ? ratio >= bar : ratio <= bar;
    short_ += ok ? 0 : 1;
    fmt::print("{:<44} {:>16} {:>24} {:>7.2f}  {} {:<5.2f} {}\n", name, measured, floor, ratio,
               kind == Bar::kAtLeast ? ">=" : "<=", bar, ok ? "ok" : "short");
    static_cast<void>(std::fflush(stdout));
  }
  /// A figure without a bar.
  static void note(std::string_view name, std::string_view measured, std::string_view floor, double ratio) {
    fmt::print("{:<44} {:>16} {:>24} {:>7.2f}\n", name, measured, floor, ratio);
    static_cast<void>(std::fflush(stdout));
  }
  [[nodiscard]] int64_t bars_short() const { return short_; }

 private:
  int64_t short_ = 0;
};

}  // namespace sluice::bench
