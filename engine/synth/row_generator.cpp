// Codes are uniformly distributed; what a block's scale must be for a deviation follows from that.
#include "engine/synth/row_generator.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <string_view>

#include "quant/base/number.h"
#include "quant/k_scales.h"
#include "quant/nvfp4.h"
#include "quant/q4_k.h"
#include "quant/q8_0.h"

namespace sluice::synth {
namespace {

using quant::DType;
using Bytes = std::span<std::byte>;
using Scales = std::array<uint16_t, 16>;

constexpr size_t kWord = sizeof(uint64_t);
// 2^64 divided by the golden ratio.
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15U;

// Deviations of the uniformly distributed codes.
constexpr float kOddByteDeviation = 73.898F;      // -127, -125 .. 127: sqrt((128^2 - 1) / 3)
constexpr float kE2m1DoubledDeviation = 5.8523F;  // of kE2m1Doubled: sqrt(274 / 8)
constexpr float kNibbleMean = 7.5F;               // 0 .. 15
constexpr float kNibbleDeviation = 4.6098F;       // sqrt((16^2 - 1) / 12)
constexpr float kLevelRms = 48.385F;              // of 32 .. 63
constexpr uint8_t kLowestLevel = 32;

/// SplitMix64 (Steele, Lea and Flood, 2014): a counter whose bits are mixed, so that words do not wait for
/// each other.
class RandomWords {
 public:
  explicit RandomWords(uint64_t state) : state_(state) {}

  uint64_t next() {
    state_ += kGolden;
    return mix(state_);
  }
  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31U);
  }

 private:
  uint64_t state_;
};

/// Numbers from 0 to 15, sixteen from a word.
class Choices {
 public:
  explicit Choices(RandomWords& words) : words_(words) {}

  size_t next() {
    if (left_ == 0) {
      bits_ = words_.next();
      left_ = 16;
    }
    const size_t choice = bits_ & 15U;
    bits_ >>= 4U;
    --left_;
    return choice;
  }

 private:
  RandomWords& words_;
  uint64_t bits_ = 0;
  int left_ = 0;
};

uint64_t key_of(std::string_view name, uint64_t seed) {
  uint64_t key = RandomWords::mix(seed + kGolden);
  for (const char c : name) key = RandomWords::mix(key ^ static_cast<unsigned char>(c)) + kGolden;
  return key;
}

/// Factors from a half to one and a half whose mean square is 1.
std::array<float, 16> spread_factors() {
  std::array<float, 16> factors{};
  double squares = 0;
  for (size_t i = 0; i < factors.size(); ++i) {
    factors[i] = 0.5F + static_cast<float>(i) / 15.0F;
    squares += static_cast<double>(factors[i]) * static_cast<double>(factors[i]);
  }
  const auto rms = static_cast<float>(std::sqrt(squares / 16.0));
  for (float& factor : factors) factor /= rms;
  return factors;
}

template <typename Encode>
Scales scales_around(float centre, Encode encode) {
  const std::array<float, 16> factors = spread_factors();
  Scales scales{};
  std::transform(factors.begin(), factors.end(), scales.begin(),
                 [&](float factor) { return encode(centre * factor); });
  return scales;
}

/// Never 0, whatever is asked for: a block of zeros would be no data.
uint16_t nvfp4_scale(float value) {
  return std::max<uint16_t>(1, f32_to_e4m3(value));
}

float bf16_rms(uint32_t lowest) {
  double squares = 0;
  for (uint32_t i = 0; i < 256; ++i) {
    const auto value = static_cast<double>(bf16_to_f32(static_cast<uint16_t>(lowest + i)));
    squares += value * value;
  }
  return static_cast<float>(std::sqrt(squares / 256));
}

/// The bits of a magnitude such that it and the 255 that follow, two octaves, have this root of the mean
/// square.
uint16_t lowest_bf16(float deviation) {
  uint32_t low = f32_to_bf16(deviation / 4);
  uint32_t high = f32_to_bf16(deviation);
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    if (bf16_rms(middle) < deviation) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return static_cast<uint16_t>(low);
}

void put(Bytes& bytes, uint64_t word) {
  std::memcpy(bytes.data(), &word, kWord);
  bytes = bytes.subspan(kWord);
}

void q8_0_row(RandomWords words, const Scales& scales, Bytes row) {
  constexpr uint64_t kOdd = 0x0101010101010101U;  // in every byte: odd codes never are -128, and sum up to 0
  Choices choices(words);
  while (!row.empty()) {
    const uint16_t d = scales[choices.next()];
    std::memcpy(row.data(), &d, sizeof(d));
    row = row.subspan(sizeof(d));
    for (int i = 0; i < 4; ++i) put(row, words.next() | kOdd);
  }
}

void nvfp4_row(RandomWords words, const Scales& scales, Bytes row) {
  Choices choices(words);
  while (!row.empty()) {
    for (size_t s = 0; s < quant::BlockNVFP4::kSubBlocks; ++s) {
      row[s] = static_cast<std::byte>(scales[choices.next()]);
    }
    row = row.subspan(quant::BlockNVFP4::kSubBlocks);
    for (int i = 0; i < 4; ++i) put(row, words.next());
  }
}

// With the minimum of a sub-block equal to its scale and dmin = 7.5 d, its values d s (code - 7.5) have mean
// 0.
void q4_k_row(RandomWords words, const Scales& d, const Scales& dmin, Bytes row) {
  while (!row.empty()) {
    uint64_t bits = words.next();
    quant::BlockQ4_K block;
    block.d = d[bits & 15U];
    block.dmin = dmin[bits & 15U];
    bits >>= 4U;
    quant::ScaleMin levels[quant::kKSubBlocks];
    for (quant::ScaleMin& level : levels) {
      const auto value = static_cast<uint8_t>(kLowestLevel | (bits & 31U));
      level = {value, value};
      bits >>= 5U;
    }
    quant::pack_scale_mins(levels, block.scales);
    for (size_t i = 0; i < sizeof(block.qs); i += kWord) {
      const uint64_t word = words.next();
      std::memcpy(block.qs + i, &word, kWord);
    }
    std::memcpy(row.data(), &block, sizeof(block));
    row = row.subspan(sizeof(block));
  }
}

// Random sign and one of 256 successive magnitudes, four to a word; the sum never carries into the sign.
void bf16_row(RandomWords words, uint16_t lowest, Bytes row) {
  constexpr uint64_t kEach = 0x0001000100010001U;
  const auto next = [&] { return (words.next() & (kEach * 0x80FFU)) + kEach * lowest; };
  while (row.size() >= kWord) put(row, next());
  const uint64_t last = next();
  std::memcpy(row.data(), &last, row.size());
}

void f32_row(RandomWords words, const Distribution& distribution, Bytes row) {
  const float step =
      distribution.deviation * std::sqrt(3.0F) * 0x1p-31F;  // uniform: half its width is sqrt(3)
  uint64_t bits = 0;
  for (bool second = false; !row.empty(); second = !second) {
    bits = second ? bits >> 32U : words.next();
    const float value = distribution.mean + step * static_cast<float>(static_cast<int32_t>(bits));
    std::memcpy(row.data(), &value, sizeof(value));
    row = row.subspan(sizeof(value));
  }
}

}  // namespace

RowGenerator::RowGenerator(const quant::Tensor& tensor, const Distribution& distribution, uint64_t seed)
    : dtype_(tensor.dtype),
      row_bytes_(static_cast<size_t>(quant::row_bytes(tensor.dtype, tensor.ne[0]))),
      key_(key_of(tensor.name, seed)),
      distribution_(distribution) {
  const float deviation = distribution.deviation;
  switch (dtype_) {
    case DType::kQ8_0:
      scales_ = scales_around(deviation / kOddByteDeviation, f32_to_f16);
      break;
    case DType::kNVFP4:
      scales_ = scales_around(2 * deviation / kE2m1DoubledDeviation, nvfp4_scale);
      break;
    case DType::kQ4_K: {
      const float d = deviation / (kNibbleDeviation * kLevelRms);
      scales_ = scales_around(d, f32_to_f16);
      minima_ = scales_around(kNibbleMean * d, f32_to_f16);
      break;
    }
    case DType::kBF16:
      scales_[0] = lowest_bf16(deviation);
      break;
    default:
      assert(dtype_ == DType::kF32);  // a spec names no other
  }
}

void RowGenerator::write(int64_t first_row, Bytes bytes) const {
  assert(first_row >= 0 && bytes.size() % row_bytes_ == 0);
  for (auto row = static_cast<uint64_t>(first_row); !bytes.empty(); ++row) {
    // Mixed, so that the counters of two rows do not run into each other.
    const RandomWords words(RandomWords::mix(key_ ^ RandomWords::mix(row)));
    const Bytes blocks = bytes.first(row_bytes_);
    bytes = bytes.subspan(row_bytes_);
    switch (dtype_) {
      case DType::kQ8_0:
        q8_0_row(words, scales_, blocks);
        break;
      case DType::kNVFP4:
        nvfp4_row(words, scales_, blocks);
        break;
      case DType::kQ4_K:
        q4_k_row(words, scales_, minima_, blocks);
        break;
      case DType::kBF16:
        bf16_row(words, scales_[0], blocks);
        break;
      default:
        f32_row(words, distribution_, blocks);
    }
  }
}

}  // namespace sluice::synth
