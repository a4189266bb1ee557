// The lane vocabulary of the panel kernels in plain C++: one row. The oracle: each function says what its
// twins in panel_lanes_avx2.h and panel_lanes_avx512.h compute in every lane.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "quant/base/number.h"
#include "quant/mxfp4.h"
#include "quant/nvfp4.h"

namespace sluice::cpu {
namespace {

struct PanelScalar {
  using I = uint32_t;
  using F = float;

  static constexpr int64_t kLanes = 1;
  static constexpr int kTokenTile = 1;

  static I words(const std::byte* p) { return read<uint32_t>(p); }
  static I splat(int32_t x) { return static_cast<uint32_t>(x); }
  static I bits(I a, uint32_t mask) { return a & mask; }
  static I either(I a, I b) { return a | b; }
  static I shift_left(I a, int n) { return a << n; }
  static I shift_right(I a, int n) { return a >> n; }
  static F to_float(I a) { return static_cast<float>(static_cast<int32_t>(a)); }

  static F zero() { return 0.0F; }
  static F set1(float x) { return x; }
  static F add(F a, F b) { return a + b; }
  static F mul(F a, F b) { return a * b; }
  static F fma(F a, F b, F c) { return std::fma(a, b, c); }
  static F fms(F a, F b, F c) { return std::fma(a, b, -c); }
  static F load(const float* p) { return *p; }
  static void store(float* p, F a) { *p = a; }
  static F as_float(I a) { return std::bit_cast<float>(a); }

  static F halves(const std::byte* p) { return f16_to_f32(read<uint16_t>(p)); }
  static F signed_bytes(const std::byte* p) { return static_cast<float>(read<int8_t>(p)); }
  static void e4m3_halved(const std::byte* p, F (&out)[2]) {
    for (int g = 0; g < 2; ++g) {
      out[g] = quant::nvfp4_half_scale(read<uint8_t>(p + g * quant::kPanelRows));
    }
  }
  static F e8m0_halved(const std::byte* p) { return quant::mxfp4_scale(read<uint8_t>(p)); }
  static void e2m1_doubled_plus_16(I word, I& low, I& high) {
    low = 0;
    high = 0;
    for (int byte = 0; byte < 4; ++byte) {
      const auto value = [&](int bit) { return static_cast<uint32_t>(kE2m1Doubled[word >> bit & 15U] + 16); };
      low |= value(8 * byte) << (8 * byte);
      high |= value(8 * byte + 4) << (8 * byte);
    }
  }

  static I dot(I sum, I codes, const int8_t* x) {
    for (int byte = 0; byte < 4; ++byte) {
      const auto code = static_cast<int32_t>(codes >> (8 * byte) & 0xFFU);
      sum += static_cast<uint32_t>(code * x[byte]);
    }
    return sum;
  }

  static I signed_codes(I words) { return words; }
  static I signed_start(int32_t /*term*/) { return 0; }
  static I dot_signed(I sum, I codes, const int8_t* x) {
    for (int byte = 0; byte < 4; ++byte) {
      const auto code = static_cast<int8_t>(codes >> (8 * byte) & 0xFFU);
      sum += static_cast<uint32_t>(code * x[byte]);
    }
    return sum;
  }

  // A lane as a column, for quantizing a row of floats.
  static I magnitude_bits(F x) { return std::bit_cast<uint32_t>(x) & 0x7FFFFFFFU; }
  static I larger(I a, I b) { return a > b ? a : b; }
  static uint32_t largest(I a) { return a; }
  static int32_t sum(I a) { return static_cast<int32_t>(a); }
  static I to_code(F x) {
    const float nearest = std::nearbyint(x);
    return static_cast<uint32_t>(nearest > -127.0F ? static_cast<int32_t>(nearest) : -127);
  }
  static void store_codes(int8_t* p, I codes) { *p = static_cast<int8_t>(codes); }

 private:
  template <class T>
  static T read(const void* p) {
    T value;
    std::memcpy(&value, p, sizeof(T));
    return value;
  }
};

}  // namespace
}  // namespace sluice::cpu
