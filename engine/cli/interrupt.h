// Ctrl-C: the first stops the work in progress, the second leaves the program with exit code 130. Neither
// leaves an unfinished file behind.
#pragma once

#include <pthread.h>
#include <termios.h>

#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

namespace sluice::cli {

inline constexpr int kInterruptedExit = 130;  // 128 + SIGINT, as shells report it

/// Takes SIGINT over for the whole process: make it before any other thread, which then inherit the blocked
/// signal. A thread of its own waits for it, so that what happens next is no signal handler. When the program
/// was started with SIGINT ignored (in the background of a script), it stays ignored.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  /// Work begins that the first SIGINT stops through the token. Outside of work the first one leaves.
  std::stop_token begin_work();
  void end_work();

 private:
  void watch();
  void handle();
  [[noreturn]] void leave() const;

  std::mutex mutex_;
  std::optional<std::stop_source> work_;
  bool quit_ = false;
  std::optional<termios> terminal_;  // as it was at the start
  sigset_t previous_mask_{};
  std::jthread watcher_;
};

/// Work between construction and destruction.
class StoppableWork {
 public:
  explicit StoppableWork(Interrupts& interrupts) : interrupts_(interrupts), token_(interrupts.begin_work()) {}
  ~StoppableWork() { interrupts_.end_work(); }
  StoppableWork(const StoppableWork&) = delete;
  StoppableWork& operator=(const StoppableWork&) = delete;
  [[nodiscard]] const std::stop_token& token() const { return token_; }

 private:
  Interrupts& interrupts_;
  std::stop_token token_;
};

}  // namespace sluice::cli
