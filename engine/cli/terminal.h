// What the terminal can do, and the two ways to write: streamed text on standard output, a progress line on
// standard error.
#pragma once

#include <chrono>
#include <exception>
#include <string>
#include <string_view>

namespace sluice::cli {

/// Of a file descriptor.
bool is_terminal(int descriptor);

/// Escape sequences for a descriptor; empty strings when it is no terminal, or NO_COLOR or TERM=dumb say so.
class Colours {
 public:
  explicit Colours(int descriptor);
  [[nodiscard]] std::string_view dim() const { return on_ ? "\x1b[2m" : ""; }
  [[nodiscard]] std::string_view bold() const { return on_ ? "\x1b[1m" : ""; }
  [[nodiscard]] std::string_view reset() const { return on_ ? "\x1b[0m" : ""; }

 private:
  bool on_;
};

/// Standard output was closed by its reader: nothing to say, exit code 1.
class OutputClosed : public std::exception {
 public:
  [[nodiscard]] const char* what() const noexcept override { return "standard output was closed"; }
};

/// Writes all of `text`, unbuffered, to a descriptor. Throws OutputClosed or Error.
void write_all(int descriptor, std::string_view text);

/// One line of progress on standard error. On a terminal it is rewritten in place and vanishes at the end;
/// elsewhere a line appears after 2 seconds and then every 10.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// Shows `text`, or leaves it out when it comes too soon after the last.
  void show(std::string_view text);
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_;
  bool visible_ = false;
  Clock::time_point next_;
};

}  // namespace sluice::cli
