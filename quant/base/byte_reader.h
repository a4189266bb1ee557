// A bounds-checked cursor over little-endian bytes.
#pragma once

#include <fmt/format.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "quant/base/error.h"

namespace sluice {

static_assert(std::endian::native == std::endian::little, "files are little endian and read as they lie");

/// Reads fields one after the other. Never reads or allocates past the end: every method throws Error first.
class ByteReader {
 public:
  /// `bytes` must outlive the reader. `subject` names the file in errors until enter() says more.
  ByteReader(std::span<const std::byte> bytes, std::string subject)
      : bytes_(bytes), subject_(std::move(subject)) {}

  /// What is being read from now on: the subject of errors.
  void enter(std::string subject) { subject_ = std::move(subject); }
  [[nodiscard]] const std::string& subject() const { return subject_; }
  [[nodiscard]] size_t position() const { return position_; }
  [[nodiscard]] size_t remaining() const { return bytes_.size() - position_; }

  /// The next `count` bytes. `what` names the field.
  std::span<const std::byte> take(uint64_t count, std::string_view what) {
    if (count > remaining()) {
      throw Error(subject_, fmt::format("{} bytes of {} at byte {}", count, what, position_),
                  fmt::format("{} bytes before the end of the file", remaining()));
    }
    const auto taken = bytes_.subspan(position_, static_cast<size_t>(count));
    position_ += taken.size();
    return taken;
  }

  template <typename T>
  requires(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) T read(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  std::string subject_;
  size_t position_ = 0;
};

}  // namespace sluice
