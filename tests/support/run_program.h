// Runs the program as a user would: from a pipe, or in a terminal of its own.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "support/places.h"

namespace sluice::testing {

using Arguments = std::vector<std::string>;
using Environment = std::vector<std::pair<std::string, std::string>>;  // set on top of the test's own

struct ProgramResult {
  int exit_code = -1;  // 128 + signal when one ended it
  std::string out;
  std::string err;
  bool timed_out = false;  // then it was killed
};

struct ProgramOptions {
  std::string input = {};  // standard input, which then ends
  Environment environment = {};
  std::chrono::seconds limit{120};
  bool close_output = false;  // nobody reads standard output
  /// What setrlimit leaves it, in bytes (RLIMIT_AS, RLIMIT_DATA); 0 = what the test has.
  uint64_t address_space = 0;
  uint64_t data = 0;
  std::string program = sluice_program();  // looked up in PATH when it has no slash
  std::string directory = {};              // to run in; empty = the test's own
  /// `interrupt_with` is sent once this holds. It sees what was printed so far, is asked every few
  /// milliseconds and may look at files.
  std::function<bool(const ProgramResult& so_far)> interrupt_when = {};
  int interrupt_with = SIGINT;
};

/// sluice_program(), or what the options name, with these arguments. Throws std::runtime_error when it cannot
/// be started.
ProgramResult run_sluice(const Arguments& arguments, const ProgramOptions& options = {});

/// sluice_program() in a pseudo-terminal of 24 x 100 characters, which shows standard output and error alike.
class TerminalProgram {
 public:
  TerminalProgram(const Arguments& arguments, const Environment& environment);
  ~TerminalProgram();  // kills what still runs
  TerminalProgram(const TerminalProgram&) = delete;
  TerminalProgram& operator=(const TerminalProgram&) = delete;

  /// Types at once; "\n" is the return key, "\x03" Ctrl-C.
  void type(const std::string& keys) const;
  /// Types when the line editor listens. Before that the terminal itself would take Ctrl-C and Ctrl-D, and
  /// libedit shows its prompt a moment before it listens. Types nothing when it never does; the next wait
  /// tells.
  void answer_prompt(const std::string& keys, std::chrono::seconds limit = std::chrono::seconds(60)) const;
  void send(int signal) const;
  /// Whether the terminal gathers lines itself, as a shell expects it.
  [[nodiscard]] bool gathers_lines() const;
  /// Waits until `text` was shown after what the last wait ended with. False when it does not come.
  bool wait_for(const std::string& text, std::chrono::seconds limit = std::chrono::seconds(60));
  /// Everything shown so far.
  [[nodiscard]] const std::string& shown() const { return shown_; }
  /// Exit code when it has left, as in ProgramResult; -1 when it did not leave in time.
  int wait_for_exit(std::chrono::seconds limit = std::chrono::seconds(60));

 private:
  // False at the end of output or when nothing came in time.
  bool read_some(std::chrono::milliseconds limit);

  int terminal_ = -1;
  pid_t pid_ = -1;
  std::string shown_;
  size_t seen_ = 0;  // characters of shown_ that wait_for has passed
};

}  // namespace sluice::testing
