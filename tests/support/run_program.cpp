// fork and exec, with pipes or a pseudo-terminal.
#include "support/run_program.h"
#include "support/places.h"

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>  // setenv
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <thread>

namespace sluice::testing {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kBetweenQuestions{2};

struct Pipe {
  Pipe() {
    if (pipe(ends.data()) != 0) throw std::runtime_error("no pipe");
  }
  ~Pipe() {
    close_read();
    close_write();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_read() { close_end(ends[0]); }
  void close_write() { close_end(ends[1]); }
  static void close_end(int& end) {
    if (end >= 0) close(end);
    end = -1;
  }
  std::array<int, 2> ends{-1, -1};
};

// Whatever started the tests, these shall reach the program: background jobs of a script have Ctrl-C ignored.
void accept_interrupts() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    signal(number, SIG_DFL);
    sigaddset(&set, number);
  }
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
}

// Returns never; what fails here shows as exit code 127.
[[noreturn]] void become(const std::string& program, const Arguments& arguments,
                         const Environment& environment) {
  accept_interrupts();
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  execvp(program.c_str(), pointers.data());
  _exit(127);
}

void limit_to(decltype(RLIMIT_AS) resource, uint64_t bytes) {
  const rlimit limit{bytes, bytes};
  if (bytes > 0 && setrlimit(resource, &limit) != 0) _exit(127);
}

int exit_code_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

milliseconds left_until(Clock::time_point end) {
  return std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(end - Clock::now()));
}

// Appends what comes; false at the end.
bool read_into(int descriptor, std::string& text) {
  std::array<char, 4096> buffer{};
  const ssize_t count = read(descriptor, buffer.data(), buffer.size());
  if (count <= 0) return false;
  text.append(buffer.data(), static_cast<size_t>(count));
  return true;
}

// Reads until both ends close, and interrupts the program when the options say so.
void attend(pid_t pid, Pipe& out, Pipe& err, const ProgramOptions& options, ProgramResult& result) {
  const auto end = Clock::now() + options.limit;
  bool interrupt = options.interrupt_when != nullptr;
  while (out.ends[0] >= 0 || err.ends[0] >= 0) {
    if (interrupt && options.interrupt_when(result)) {
      kill(pid, options.interrupt_with);
      interrupt = false;
    }
    std::array<pollfd, 2> polled{{{out.ends[0], POLLIN, 0}, {err.ends[0], POLLIN, 0}}};
    const milliseconds left = left_until(end);
    const milliseconds wait = interrupt ? std::min(left, kBetweenQuestions) : left;
    if (poll(polled.data(), polled.size(), static_cast<int>(wait.count())) == 0 && left.count() == 0) {
      result.timed_out = true;
      return;
    }
    if (polled[0].revents != 0 && !read_into(out.ends[0], result.out)) out.close_read();
    if (polled[1].revents != 0 && !read_into(err.ends[0], result.err)) err.close_read();
  }
}

void write_input(Pipe& in, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = write(in.ends[1], text.data() + done, text.size() - done);
    if (written <= 0) break;  // it left without reading
    done += static_cast<size_t>(written);
  }
  in.close_write();
}

}  // namespace

ProgramResult run_sluice(const Arguments& arguments, const ProgramOptions& options) {
  Pipe in;
  Pipe out;
  Pipe err;
  const pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("no process");
  if (pid == 0) {
    if (options.close_output) out.close_read();
    dup2(in.ends[0], STDIN_FILENO);
    dup2(out.ends[1], STDOUT_FILENO);
    dup2(err.ends[1], STDERR_FILENO);
    for (Pipe* const pipe : {&in, &out, &err}) {
      pipe->close_read();
      pipe->close_write();
    }
    if (!options.directory.empty() && chdir(options.directory.c_str()) != 0) _exit(127);
    limit_to(RLIMIT_AS, options.address_space);
    limit_to(RLIMIT_DATA, options.data);
    become(options.program, arguments, options.environment);
  }
  in.close_read();
  out.close_write();
  err.close_write();
  if (options.close_output) out.close_read();
  signal(SIGPIPE, SIG_IGN);
  std::thread writer([&] { write_input(in, options.input); });
  ProgramResult result;
  attend(pid, out, err, options, result);
  if (result.timed_out) kill(pid, SIGKILL);
  int status = 0;
  waitpid(pid, &status, 0);
  writer.join();
  result.exit_code = exit_code_of(status);
  return result;
}

TerminalProgram::TerminalProgram(const Arguments& arguments, const Environment& environment) {
  winsize size{};
  size.ws_row = 24;
  size.ws_col = 100;
  pid_ = forkpty(&terminal_, nullptr, nullptr, &size);
  if (pid_ < 0) throw std::runtime_error("no pseudo-terminal");
  if (pid_ == 0) become(sluice_program(), arguments, environment);
}

TerminalProgram::~TerminalProgram() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(terminal_);
}

void TerminalProgram::type(const std::string& keys) const {
  for (const char key : keys) {
    const char typed = key == '\n' ? '\r' : key;
    if (write(terminal_, &typed, 1) != 1) return;  // it left; the next wait tells
  }
}

void TerminalProgram::answer_prompt(const std::string& keys, std::chrono::seconds limit) const {
  const auto end = Clock::now() + limit;
  while (gathers_lines()) {
    if (Clock::now() > end) return;
    std::this_thread::sleep_for(milliseconds(1));
  }
  type(keys);
}

void TerminalProgram::send(int signal) const {
  kill(pid_, signal);
}

bool TerminalProgram::gathers_lines() const {
  termios mode{};
  return tcgetattr(terminal_, &mode) == 0 && (mode.c_lflag & ICANON) != 0;
}

bool TerminalProgram::read_some(milliseconds limit) {
  pollfd polled{terminal_, POLLIN, 0};
  return poll(&polled, 1, static_cast<int>(limit.count())) > 0 && read_into(terminal_, shown_);
}

bool TerminalProgram::wait_for(const std::string& text, std::chrono::seconds limit) {
  const auto end = Clock::now() + limit;
  while (true) {
    const size_t found = shown_.find(text, seen_);
    if (found != std::string::npos) {
      seen_ = found + text.size();
      return true;
    }
    if (!read_some(left_until(end))) return false;
  }
}

int TerminalProgram::wait_for_exit(std::chrono::seconds limit) {
  const auto end = Clock::now() + limit;
  while (read_some(left_until(end))) {
  }
  int status = 0;
  while (waitpid(pid_, &status, WNOHANG) == 0) {
    if (Clock::now() > end) return -1;
    std::this_thread::sleep_for(milliseconds(10));
  }
  pid_ = -1;
  return exit_code_of(status);
}

}  // namespace sluice::testing
