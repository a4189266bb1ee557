// AVX2 with AVX-VNNI: a dot product of four bytes is one instruction. Signed codes become unsigned by an
// offset of 128, which the activation's terms take back.
#pragma once

#include "kernels_cpu/simd/panel_lanes_avx2.h"

namespace sluice::cpu {
namespace {

struct PanelAvxVnni : PanelAvx2 {
  static I dot(I sum, I codes, const int8_t* x) { return _mm256_dpbusd_avx_epi32(sum, codes, splat4(x)); }

  static I signed_codes(I words) { return _mm256_xor_si256(words, splat(static_cast<int32_t>(0x80808080U))); }
  static I signed_start(int32_t term) { return splat(term); }
  static I dot_signed(I sum, I codes, const int8_t* x) { return dot(sum, codes, x); }
};

}  // namespace
}  // namespace sluice::cpu
