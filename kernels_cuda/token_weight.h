// The likelihood of a token beside that of the likeliest as an integer, so that sums do not depend on their
// order and are the same on every machine: plain C++ for the host and for kernels. Products and sums must not
// be fused (sampling.cu is compiled so).
#pragma once

#include <cstdint>

namespace sluice {

inline constexpr int kTokenWeightBits = 40;
/// Of the likeliest token.
inline constexpr uint64_t kFullTokenWeight = uint64_t{1} << kTokenWeightBits;
inline constexpr double kLog2E = 1.44269504088896340736;
inline constexpr int kTokenWeightSteps = 64;

/// 2^(kTokenWeightBits - i / kTokenWeightSteps)
struct TokenWeightPowers {
  double of[kTokenWeightSteps];
};

namespace token_weight_detail {

inline constexpr double kLn2 = 0.693147180559945309417;

/// e^-x for x from 0 to 1, by 1 - x (1 - x/2 (1 - x/3 (...))); good to 2^-50.
constexpr double series(double x) {
  double sum = 0.0;
  for (int i = 18; i > 0; --i) sum = (1.0 - sum) * x / i;
  return 1.0 - sum;
}

}  // namespace token_weight_detail

constexpr TokenWeightPowers make_token_weight_powers() {
  TokenWeightPowers powers{};
  for (int i = 0; i < kTokenWeightSteps; ++i) {
    powers.of[i] =
        token_weight_detail::series(static_cast<double>(i) / kTokenWeightSteps * token_weight_detail::kLn2) *
        static_cast<double>(kFullTokenWeight);
  }
  return powers;
}

/// 2^-y as a multiple of 2^-kTokenWeightBits; 0 for y beyond kTokenWeightBits and for no number. y is not
/// negative. A power of two by shift, the 64ths by table, the rest by four terms of the series, which leaves
/// an error of 2^-39: two y's that are nearly the same may have weights in the wrong order, by
/// kTokenWeightSlack at most. Written out because the C library's exp differs between processors in the last
/// bit.
constexpr uint64_t token_weight(double y, const TokenWeightPowers& powers) {
  if (!(y <= kTokenWeightBits)) return 0;
  const auto steps = static_cast<int>(y * kTokenWeightSteps);
  const double x = (y - static_cast<double>(steps) / kTokenWeightSteps) * token_weight_detail::kLn2;
  const double rest = 1.0 - x * (1.0 - x * (1.0 / 2) * (1.0 - x * (1.0 / 3) * (1.0 - x * (1.0 / 4))));
  return static_cast<uint64_t>(rest * powers.of[steps % kTokenWeightSteps]) >> (steps / kTokenWeightSteps);
}
inline constexpr uint64_t kTokenWeightSlack = 8;

/// The factor of y = factor * (largest logit - logit); `temperature` is above 0.
constexpr double token_weight_factor(float temperature) {
  return kLog2E / static_cast<double>(temperature);
}

}  // namespace sluice
