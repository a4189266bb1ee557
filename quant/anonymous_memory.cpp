// mmap without a file.
#include "quant/anonymous_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "quant/base/error.h"

namespace sluice::quant {

AnonymousMemory::AnonymousMemory(size_t n_bytes) {
  if (n_bytes == 0) {
    return;  // mmap refuses to map nothing
  }
  void* const memory =
      ::mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error("memory", fmt::format("{} bytes for weights", n_bytes), system_error_text(errno));
  }
  // Large pages where the system has them: every weight is read once a token.
  static_cast<void>(::madvise(memory, n_bytes, MADV_HUGEPAGE));
  data_ = static_cast<std::byte*>(memory);
  size_ = n_bytes;
}

AnonymousMemory::~AnonymousMemory() {
  if (data_ != nullptr) {
    ::munmap(data_, size_);
  }
}

AnonymousMemory::AnonymousMemory(AnonymousMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AnonymousMemory& AnonymousMemory::operator=(AnonymousMemory&& other) noexcept {
  AnonymousMemory moved(std::move(other));
  std::swap(data_, moved.data_);
  std::swap(size_, moved.size_);
  return *this;
}

}  // namespace sluice::quant
