// Fast Walsh-Hadamard transform: log2(n) rounds of butterflies, Sylvester order.
#include "kernels_cpu/hadamard.h"

#include <bit>
#include <cassert>
#include <cmath>

namespace sluice::cpu {

void hadamard(std::span<float> x) {
  assert(std::has_single_bit(x.size()));
  for (size_t half = 1; half < x.size(); half *= 2) {
    for (size_t begin = 0; begin < x.size(); begin += 2 * half) {
      for (size_t i = begin; i < begin + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const float factor = 1.0F / std::sqrt(static_cast<float>(x.size()));
  for (float& value : x) {
    value *= factor;
  }
}

}  // namespace sluice::cpu
