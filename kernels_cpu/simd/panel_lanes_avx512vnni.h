// AVX-512 with VNNI: a dot product of four bytes is one instruction. Signed codes become unsigned by an
// offset of 128, which the activation's terms take back.
#pragma once

#include "kernels_cpu/simd/panel_lanes_avx512.h"

namespace sluice::cpu {
namespace {

struct PanelAvx512Vnni : PanelAvx512 {
  /// The instruction broadcasts its four bytes itself. g++ 12 does not use that of its own accord, and a
  /// kernel that loads them apart has nearly twice the instructions.
  static I dot(I sum, I codes, const int8_t* x) {
    struct Four {
      int8_t bytes[4];
    };
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*reinterpret_cast<const Four*>(x)));
    return sum;
  }
  /// The same with the four bytes in every lane of `four`.
  static I dot(I sum, I codes, I four) { return _mm512_dpbusd_epi32(sum, codes, four); }

  static I signed_codes(I words) { return _mm512_xor_si512(words, splat(static_cast<int32_t>(0x80808080U))); }
  static I signed_start(int32_t term) { return splat(term); }
  static I dot_signed(I sum, I codes, const int8_t* x) { return dot(sum, codes, x); }
  static I dot_signed(I sum, I codes, I four) { return dot(sum, codes, four); }
};

}  // namespace
}  // namespace sluice::cpu
