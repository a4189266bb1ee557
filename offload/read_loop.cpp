#include "offload/read_loop.h"

#include <emmintrin.h>

#include <algorithm>
#include <cstdint>

namespace sluice::offload {
namespace {

// 16-byte loads are enough: one core takes less from memory than they can deliver.
__m128i fold(std::span<const std::byte> bytes, __m128i sum) {
  __m128i part[4] = {sum, sum, sum, sum};
  for (size_t i = 0; i + 64 <= bytes.size(); i += 64) {
    const auto* at = reinterpret_cast<const __m128i*>(bytes.data() + i);
    for (int j = 0; j < 4; ++j) {
      part[j] = _mm_xor_si128(part[j], _mm_loadu_si128(at + j));
    }
  }
  return _mm_xor_si128(_mm_xor_si128(part[0], part[1]), _mm_xor_si128(part[2], part[3]));
}

// Somebody seems to want the result, so the loop stays.
void use(__m128i sum) {
  const volatile int used = _mm_cvtsi128_si32(sum);
  static_cast<void>(used);
}

}  // namespace

void read_through(std::span<const std::byte> bytes) {
  use(fold(bytes, _mm_setzero_si128()));
}

void read_in_pieces(std::span<const std::byte> bytes) {
  constexpr size_t kPiece = 256 << 10;
  constexpr size_t kStep = 7919;  // a prime, so that it meets every piece whatever their number below it
  const size_t pieces = (bytes.size() + kPiece - 1) / kPiece;
  __m128i sum = _mm_setzero_si128();
  for (size_t i = 0; i < pieces; ++i) {
    const size_t begin = i * kStep % pieces * kPiece;
    sum = fold(bytes.subspan(begin, std::min(kPiece, bytes.size() - begin)), sum);
  }
  use(sum);
}

}  // namespace sluice::offload
