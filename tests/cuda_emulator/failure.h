// Errors as CUDA keeps them: each thread's last one, and a kernel's that stays with the process.
#pragma once

#include <cuda_runtime_api.h>

namespace sluice::emulator {

/// cudaSuccess until a kernel failed, then its error for good: no other call of the process works any more.
cudaError_t failure();

/// `result`, or the failure where there is one, for cudaGetLastError() of this thread.
cudaError_t told(cudaError_t result);

/// While it lives, an access of this thread to memory that is not there is the kernel's failure: the thread
/// stands still for good, and everything that waits for it ends with cudaErrorIllegalAddress. Outside it such
/// an access ends the process, as it would anyway.
class FailingThread {
 public:
  FailingThread();
  ~FailingThread();
  FailingThread(const FailingThread&) = delete;
  FailingThread& operator=(const FailingThread&) = delete;
};

}  // namespace sluice::emulator
