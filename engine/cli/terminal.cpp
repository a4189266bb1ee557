// Writes to the terminal, and asks it what it is.
#include "engine/cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "quant/base/error.h"

namespace sluice::cli {
namespace {

using namespace std::chrono_literals;

constexpr auto kFirstOnTerminal = 300ms;  // shorter work shows nothing
constexpr auto kStepOnTerminal = 100ms;
constexpr auto kFirstElsewhere = 2s;
constexpr auto kStepElsewhere = 10s;

bool colours_wanted(int descriptor) {
  const char* const no_color = std::getenv("NO_COLOR");  // https://no-color.org: set and not empty
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* const term = std::getenv("TERM");
  return is_terminal(descriptor) && term != nullptr && std::string_view(term) != "dumb";
}

}  // namespace

bool is_terminal(int descriptor) {
  return isatty(descriptor) == 1;
}

Colours::Colours(int descriptor) : on_(colours_wanted(descriptor)) {}

void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EPIPE) {
      throw OutputClosed();
    } else if (errno != EINTR) {
      throw Error(descriptor == STDOUT_FILENO ? "standard output" : "standard error", "to write to it",
                  system_error_text(errno));
    }
  }
}

ProgressLine::ProgressLine()
    : terminal_(is_terminal(STDERR_FILENO)),
      next_(Clock::now() + (terminal_ ? kFirstOnTerminal : kFirstElsewhere)) {}

ProgressLine::~ProgressLine() {
  try {
    clear();
  } catch (const std::exception&) {
    visible_ = false;  // standard error is gone; there is no line to clear
  }
}

void ProgressLine::show(std::string_view text) {
  const Clock::time_point now = Clock::now();
  if (now < next_) return;
  if (terminal_) {
    write_all(STDERR_FILENO, fmt::format("\r\x1b[K{}", text));
    visible_ = true;
    next_ = now + kStepOnTerminal;
  } else {
    write_all(STDERR_FILENO, fmt::format("{}\n", text));
    next_ = now + kStepElsewhere;
  }
}

void ProgressLine::clear() {
  if (visible_) write_all(STDERR_FILENO, "\r\x1b[K");
  visible_ = false;
}

}  // namespace sluice::cli
