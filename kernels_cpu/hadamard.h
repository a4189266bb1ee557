// The orthonormal Sylvester-ordered Walsh-Hadamard transform (model formula 2.6, step 4).
#pragma once

#include <span>

namespace sluice::cpu {

/// x <- H x / sqrt(n), in place; x.size() = n must be a power of two. Its own inverse.
void hadamard(std::span<float> x);

}  // namespace sluice::cpu
