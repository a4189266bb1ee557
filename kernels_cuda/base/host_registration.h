// Memory that lies already, page-locked for as long as its owner lives: the GPU copies from it at full speed.
#pragma once

#include <cstddef>
#include <span>

namespace sluice::cuda {

/// Move-only.
class HostRegistration {
 public:
  HostRegistration() = default;
  /// Pages that are not there yet are made. Throws Error, naming the bytes, when the system or the driver
  /// refuses, and for no bytes at all.
  explicit HostRegistration(std::span<const std::byte> memory);
  ~HostRegistration();
  HostRegistration(HostRegistration&& other) noexcept;
  HostRegistration& operator=(HostRegistration&& other) noexcept;
  HostRegistration(const HostRegistration&) = delete;
  HostRegistration& operator=(const HostRegistration&) = delete;

  [[nodiscard]] std::span<const std::byte> memory() const { return memory_; }

 private:
  std::span<const std::byte> memory_;
};

}  // namespace sluice::cuda
