// A thread waits for the signals with sigwait.
#include "engine/cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <array>

#include "engine/cli/terminal.h"
#include "quant/base/output_file.h"

namespace sluice::cli {
namespace {

constexpr std::array<int, 3> kSignals{SIGINT, SIGTERM, SIGHUP};

bool is_ignored(int signal) {
  struct sigaction action {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

Interrupts::Interrupts() {
  termios settings{};
  if (tcgetattr(STDIN_FILENO, &settings) == 0) terminal_ = settings;
  sigemptyset(&watched_);
  for (const int signal : kSignals) {
    if (is_ignored(signal)) continue;
    sigaddset(&watched_, signal);
    wake_ = signal;
  }
  pthread_sigmask(SIG_BLOCK, &watched_, &previous_mask_);
  if (wake_ != 0) watcher_ = std::jthread([this] { watch(); });
}

Interrupts::~Interrupts() {
  {
    const std::scoped_lock lock(mutex_);
    quit_ = true;
  }
  if (watcher_.joinable()) {
    pthread_kill(watcher_.native_handle(), wake_);  // it then sees quit_
    watcher_.join();
  }
  pthread_sigmask(SIG_SETMASK, &previous_mask_, nullptr);
}

std::stop_token Interrupts::begin_work() {
  const std::scoped_lock lock(mutex_);
  return work_.emplace().get_token();
}

void Interrupts::end_work() {
  const std::scoped_lock lock(mutex_);
  work_.reset();
}

bool Interrupts::told_to_end() const {
  const std::scoped_lock lock(mutex_);
  return told_to_end_;
}

void Interrupts::watch() {
  while (true) {
    int signal = 0;
    sigwait(&watched_, &signal);
    const std::scoped_lock lock(mutex_);
    if (quit_) return;
    handle(signal);
  }
}

void Interrupts::handle(int signal) {
  told_to_end_ = told_to_end_ || signal != SIGINT;
  if (!work_.has_value() || !work_->request_stop()) leave();
}

void Interrupts::leave() const {
  const auto held_to_the_end = OutputFile::remove_uncommitted();
  if (terminal_.has_value()) tcsetattr(STDIN_FILENO, TCSADRAIN, &*terminal_);
  const std::string_view reset = Colours(STDOUT_FILENO).reset();
  [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, reset.data(), reset.size());
  _exit(kInterruptedExit);  // not exit(): other threads are at work on what it would destroy
}

}  // namespace sluice::cli
