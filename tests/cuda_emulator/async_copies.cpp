#include "tests/cuda_emulator/async_copies.h"

#include <cstring>

namespace sluice::emulator {

void AsyncCopies::begin(CopyTime time) {
  time_ = time;
  copies_.clear();
  groups_.clear();
  uncommitted_ = 0;
}

void AsyncCopies::perform(const Copy& copy) {
  const auto bytes = static_cast<size_t>(copy.bytes);
  std::memcpy(copy.to, copy.from, bytes);
  std::memset(copy.to + bytes, 0, 16 - bytes);
}

void AsyncCopies::add(std::byte* to, const void* from, int bytes) {
  copies_.push_back({to, from, bytes});
  ++uncommitted_;
  if (time_ == CopyTime::kAtOnce) perform(copies_.back());
}

void AsyncCopies::commit() {
  groups_.push_back(uncommitted_);
  uncommitted_ = 0;
}

void AsyncCopies::wait(int pending) {
  size_t groups = 0;
  size_t copies = 0;
  while (groups_.size() - groups > static_cast<size_t>(pending)) copies += groups_[groups++];
  const auto end = copies_.begin() + static_cast<std::ptrdiff_t>(copies);
  if (time_ == CopyTime::kWhenAwaited) {
    for (auto copy = copies_.begin(); copy != end; ++copy) perform(*copy);
  }
  copies_.erase(copies_.begin(), end);
  groups_.erase(groups_.begin(), groups_.begin() + static_cast<std::ptrdiff_t>(groups));
}

}  // namespace sluice::emulator
