// A thread waits for SIGINT with sigwait.
#include "engine/cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include "engine/cli/terminal.h"
#include "quant/base/output_file.h"

namespace sluice::cli {
namespace {

sigset_t interrupt_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

bool interrupt_is_ignored() {
  struct sigaction action {};
  return sigaction(SIGINT, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

Interrupts::Interrupts() {
  termios settings{};
  if (tcgetattr(STDIN_FILENO, &settings) == 0) terminal_ = settings;
  const bool ignored = interrupt_is_ignored();
  const sigset_t set = interrupt_set();
  pthread_sigmask(SIG_BLOCK, &set, &previous_mask_);
  if (!ignored) watcher_ = std::jthread([this] { watch(); });
}

Interrupts::~Interrupts() {
  {
    const std::scoped_lock lock(mutex_);
    quit_ = true;
  }
  if (watcher_.joinable()) {
    pthread_kill(watcher_.native_handle(), SIGINT);  // wakes it; it then sees quit_
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

void Interrupts::watch() {
  const sigset_t set = interrupt_set();
  while (true) {
    int signal = 0;
    sigwait(&set, &signal);
    const std::scoped_lock lock(mutex_);
    if (quit_) return;
    handle();
  }
}

void Interrupts::handle() {
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
