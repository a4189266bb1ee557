// Rotary position embedding (model formula 2.3).
#include "kernels_cpu/rope.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

namespace sluice::cpu {
namespace {

/// The pair index whose wavelength turns `rotations` times within the original context.
double correction_index(const YarnParams& params, double rotations) {
  const double turns = static_cast<double>(params.original_context) / (2.0 * std::numbers::pi * rotations);
  return static_cast<double>(params.dims) * std::log(turns) /
         (2.0 * std::log(static_cast<double>(params.freq_base)));
}

}  // namespace

std::vector<float> yarn_frequencies(const YarnParams& params) {
  assert(params.dims > 0 && params.dims % 2 == 0 && params.factor > 0.0F);
  const auto dims = static_cast<double>(params.dims);
  const double low = std::max(std::floor(correction_index(params, params.beta_fast)), 0.0);
  const double high = std::min(std::ceil(correction_index(params, params.beta_slow)), dims - 1.0);
  const double width = std::max(high - low, 0.001);  // a ramp of no width is a step
  std::vector<float> frequencies(static_cast<size_t>(params.dims / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const auto index = static_cast<double>(i);
    const double f = std::pow(static_cast<double>(params.freq_base), -2.0 * index / dims);
    // Fast pairs keep their frequency, slow ones are interpolated, those between are mixed.
    const double ramp = params.factor == 1.0F ? 0.0 : std::clamp((index - low) / width, 0.0, 1.0);
    const double interpolated = f / static_cast<double>(params.factor);
    frequencies[i] = static_cast<float>(f * (1.0 - ramp) + interpolated * ramp);
  }
  return frequencies;
}

void rope_angles(std::span<const float> frequencies, int64_t position, std::span<float> cos_sin) {
  assert(cos_sin.size() == 2 * frequencies.size());
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float angle = static_cast<float>(position) * frequencies[i];
    cos_sin[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    cos_sin[frequencies.size() + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

void rope_interleaved(std::span<const float> cos_sin, std::span<float> x) {
  assert(x.size() == cos_sin.size());
  const size_t pairs = x.size() / 2;
  for (size_t i = 0; i < pairs; ++i) {
    const float c = cos_sin[i];
    const float s = cos_sin[pairs + i];
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = a * c - b * s;
    x[2 * i + 1] = a * s + b * c;
  }
}

void rope_half_split(std::span<const float> cos_sin, std::span<float> x) {
  assert(x.size() == cos_sin.size());
  const size_t pairs = x.size() / 2;
  for (size_t i = 0; i < pairs; ++i) {
    const float c = cos_sin[i];
    const float s = cos_sin[pairs + i];
    const float a = x[i];
    const float b = x[i + pairs];
    x[i] = a * c - b * s;
    x[i + pairs] = a * s + b * c;
  }
}

}  // namespace sluice::cpu
