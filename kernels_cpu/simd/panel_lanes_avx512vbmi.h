// AVX-512 with VNNI and VBMI: a byte permutation that looks at six bits of an index. With the table four
// times over it needs no mask for a nibble.
#pragma once

#include "kernels_cpu/simd/panel_lanes_avx512vnni.h"

namespace sluice::cpu {
namespace {

struct PanelAvx512Vbmi : PanelAvx512Vnni {
  static void e2m1_doubled_plus_16(I word, I& low, I& high) {
    __asm__("" : "+v"(word));  // or g++ 12 loads the word twice, and loads are what this is short of
    low = _mm512_permutexvar_epi8(word, e2m1_table());
    high = _mm512_permutexvar_epi8(shift_right(word, 4), e2m1_table());
  }
};

}  // namespace
}  // namespace sluice::cpu
