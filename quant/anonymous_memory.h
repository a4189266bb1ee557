// Memory for weights that no file holds.
#pragma once

#include <cstddef>
#include <span>

namespace sluice::quant {

/// Move-only owner of zeroed pages. A page takes up memory, on the NUMA node of the thread that does it, when
/// it is first written to.
class AnonymousMemory {
 public:
  AnonymousMemory() = default;
  /// Page-aligned. Throws Error when the system refuses so much.
  explicit AnonymousMemory(size_t n_bytes);
  ~AnonymousMemory();
  AnonymousMemory(AnonymousMemory&& other) noexcept;
  AnonymousMemory& operator=(AnonymousMemory&& other) noexcept;
  AnonymousMemory(const AnonymousMemory&) = delete;
  AnonymousMemory& operator=(const AnonymousMemory&) = delete;

  [[nodiscard]] std::span<std::byte> bytes() { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace sluice::quant
