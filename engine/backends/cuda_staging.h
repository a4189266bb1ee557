// GPU memory that experts pass through: a ring of slots, filled by one stream and emptied by another, which
// wait for each other and never make the host wait.
//
//   copy     wait until slot is free | copies | filled      ...
//   compute                          wait until filled | products | free
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/stream.h"

namespace sluice {

struct StagingShape {
  int64_t slot_bytes = 0;  // a multiple of 256
  int64_t slots = 0;

  [[nodiscard]] int64_t bytes() const { return slot_bytes * slots; }
};

/// Slots are filled and taken in turn. The host calls begin_fill, end_fill and, later, take and release, in
/// the order in which the streams are to do it.
class CudaStaging {
 public:
  /// Throws Error when memory cannot be had.
  explicit CudaStaging(const StagingShape& shape);

  [[nodiscard]] const StagingShape& shape() const { return shape_; }
  /// Whether a slot is free, or will be when what is in the streams is done.
  [[nodiscard]] bool has_room() const { return filled_ - released_ < shape_.slots; }
  [[nodiscard]] int64_t waiting() const { return filled_ - taken_; }  // slots filled and not taken

  /// Where `copy` may write after this. Only with has_room().
  std::byte* begin_fill(cudaStream_t copy);
  void end_fill(cudaStream_t copy);
  /// What `compute` may read after this: the slot filled first of those that wait.
  const std::byte* take(cudaStream_t compute);
  /// The slot taken first of those that were not released.
  void release(cudaStream_t compute);

  /// All slots are free. Only when both streams are idle.
  void reset() {
    filled_ = taken_ = released_ = 0;
    running_ = 0;
  }

  /// How long slots took to fill, of those that are done and were not told before.
  struct Filling {
    int64_t slots = 0;
    int64_t ns = 0;
  };
  [[nodiscard]] Filling collect_times();

 private:
  struct Slot {
    cuda::Event free;
    cuda::Event filled;
  };
  struct Clock {
    cuda::Event begin{cuda::EventKind::kTiming};
    cuda::Event end{cuda::EventKind::kTiming};
  };
  [[nodiscard]] Slot& slot(int64_t number) { return slots_[static_cast<size_t>(number % shape_.slots)]; }
  [[nodiscard]] std::byte* data(int64_t number) const {
    return memory_.data() + number % shape_.slots * shape_.slot_bytes;
  }

  StagingShape shape_;
  cuda::DeviceBuffer<std::byte> memory_;
  std::vector<Slot> slots_;
  int64_t filled_ = 0;
  int64_t taken_ = 0;
  int64_t released_ = 0;
  std::vector<Clock> clocks_;  // in use [0, running_), in the order of filling
  size_t running_ = 0;
};

}  // namespace sluice
