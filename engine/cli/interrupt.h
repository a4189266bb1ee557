// Ctrl-C, SIGTERM and SIGHUP: the first stops the work in progress, the second leaves the program with exit
// code 130. Neither leaves an unfinished file behind.
#pragma once

#include <pthread.h>
#include <termios.h>

#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

namespace sluice::cli {

/// 128 + SIGINT, as shells report it; the same for all, so that scripts have one number to ask for.
inline constexpr int kInterruptedExit = 130;

/// Takes the three signals over for the whole process: make it before any other thread, which then inherit
/// that they are blocked. A thread of its own waits for them, so that what happens next is no signal handler.
/// A signal that was ignored when the program started (SIGINT in the background of a script, SIGHUP under
/// nohup) stays ignored.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  /// Work begins that the first signal stops through the token. Outside of work the first one leaves.
  std::stop_token begin_work();
  void end_work();

  /// Another signal than Ctrl-C came: it ends not only the work but the program, once the work has stopped.
  [[nodiscard]] bool told_to_end() const;

 private:
  void watch();
  void handle(int signal);
  [[noreturn]] void leave() const;

  mutable std::mutex mutex_;  // of the next three
  std::optional<std::stop_source> work_;
  bool told_to_end_ = false;
  bool quit_ = false;
  std::optional<termios> terminal_;  // as it was at the start
  sigset_t watched_{};               // without what was ignored at the start
  int wake_ = 0;                     // one of them; 0 = there is none and no watcher
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
