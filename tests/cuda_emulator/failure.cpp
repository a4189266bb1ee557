#include "tests/cuda_emulator/failure.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <memory>

namespace sluice::emulator {
namespace {

constexpr size_t kSignalStackBytes = size_t{64} << 10;

std::atomic<cudaError_t> the_failure = cudaSuccess;
thread_local cudaError_t last_error = cudaSuccess;
thread_local bool may_fail = false;

struct sigaction previous_segv;
struct sigaction previous_bus;

/// Only what a signal's handler may call: the thread may have been anywhere.
void on_fault(int number, siginfo_t* info, void* /*context*/) {
  if (!may_fail) {
    sigaction(number, number == SIGBUS ? &previous_bus : &previous_segv, nullptr);  // and it happens again
    return;
  }
  std::array<char, 128> line{};
  const int length =
      std::snprintf(line.data(), line.size(),
                    "emulated GPU: a kernel's access to address %p, where no memory is\n", info->si_addr);
  static_cast<void>(!write(STDERR_FILENO, line.data(), static_cast<size_t>(length)));
  the_failure.store(cudaErrorIllegalAddress);
  for (;;) pause();
}

void take_signals() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGBUS, &action, &previous_bus);
}

/// The handler's, as a fiber that overran its stack has none left.
struct SignalStack {
  SignalStack() : bytes(std::make_unique<std::byte[]>(kSignalStackBytes)) {
    stack_t stack{};
    stack.ss_sp = bytes.get();
    stack.ss_size = kSignalStackBytes;
    sigaltstack(&stack, nullptr);
  }
  ~SignalStack() {
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    sigaltstack(&none, nullptr);
  }
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;
  std::unique_ptr<std::byte[]> bytes;
};

}  // namespace

cudaError_t failure() {
  return the_failure.load();
}

cudaError_t told(cudaError_t result) {
  const cudaError_t found = failure() != cudaSuccess ? failure() : result;
  if (found != cudaSuccess) last_error = found;
  return found;
}

FailingThread::FailingThread() {
  static const bool taken = [] {
    take_signals();
    return true;
  }();
  static_cast<void>(taken);
  thread_local const SignalStack stack;
  static_cast<void>(stack);
  may_fail = true;
}

FailingThread::~FailingThread() {
  may_fail = false;
}

}  // namespace sluice::emulator

using sluice::emulator::failure;

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t last = cudaPeekAtLastError();
  sluice::emulator::last_error = cudaSuccess;
  return last;
}

cudaError_t cudaPeekAtLastError() {
  return failure() != cudaSuccess ? failure() : sluice::emulator::last_error;
}

}  // extern "C"
