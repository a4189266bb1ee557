#include "engine/backends/cuda_staging.h"

#include <algorithm>
#include <cassert>

#include "kernels_cuda/base/check.h"

namespace sluice {

CudaStaging::CudaStaging(const StagingShape& shape)
    : shape_(shape), memory_(shape.bytes()), slots_(static_cast<size_t>(shape.slots)) {}

std::byte* CudaStaging::begin_fill(cudaStream_t copy) {
  assert(has_room());
  if (filled_ >= shape_.slots) {  // an event that was never recorded waits for nothing
    slot(filled_).free.make_wait(copy);
  }
  if (running_ == clocks_.size()) {
    clocks_.emplace_back();
  }
  clocks_[running_].begin.record(copy);
  return data(filled_);
}

void CudaStaging::end_fill(cudaStream_t copy) {
  slot(filled_).filled.record(copy);
  clocks_[running_++].end.record(copy);
  ++filled_;
}

const std::byte* CudaStaging::take(cudaStream_t compute) {
  assert(waiting() > 0);
  slot(taken_).filled.make_wait(compute);
  return data(taken_++);
}

void CudaStaging::release(cudaStream_t compute) {
  assert(released_ < taken_);
  slot(released_++).free.record(compute);
}

CudaStaging::Filling CudaStaging::collect_times() {
  Filling filling;
  size_t done = 0;
  for (; done < running_; ++done) {
    if (!clocks_[done].end.is_reached()) {
      break;
    }
    ++filling.slots;
    filling.ns += static_cast<int64_t>(cuda::elapsed_ms(clocks_[done].begin, clocks_[done].end) * 1e6F);
  }
  std::rotate(clocks_.begin(), clocks_.begin() + static_cast<std::ptrdiff_t>(done),
              clocks_.begin() + static_cast<std::ptrdiff_t>(running_));
  running_ -= done;
  return filling;
}

}  // namespace sluice
