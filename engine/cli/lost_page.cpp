// No exception can leave the instruction that reads the page, so the program ends where it is.
#include "engine/cli/lost_page.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <exception>
#include <optional>

#include "engine/cli/terminal.h"
#include "quant/base/error.h"
#include "quant/base/output_file.h"
#include "quant/mapped_file.h"

namespace sluice::cli {
namespace {

constexpr int kFailed = 1;

void tell(const Error& error) {
  try {
    const char* const over_progress = is_terminal(STDERR_FILENO) ? "\r\x1b[K" : "";
    write_all(STDERR_FILENO, fmt::format("{}sluice: error: {}\n", over_progress, error.what()));
  } catch (const std::exception&) {
    return;  // nobody reads it
  }
}

// The signal comes to the very thread that reads the page and holds no lock, so that all calls may be used.
void on_bus_error(int signal, siginfo_t* info, void* /*context*/) {
  static std::atomic_flag leaving;
  const std::optional<Error> error = quant::lost_page_error(info->si_addr);
  if (!error.has_value()) {
    ::signal(signal, SIG_DFL);  // the instruction is repeated, and ends the program
    return;
  }
  while (leaving.test_and_set()) {
    pause();  // another thread met such a page first, and ends the program
  }
  const auto held_to_the_end = OutputFile::remove_uncommitted();
  tell(*error);
  _exit(kFailed);
}

}  // namespace

void report_lost_pages() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace sluice::cli
