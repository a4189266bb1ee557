// From the words of a panel (quant/panel.h) to 32 columns of sixteen rows: codes as bytes that a dot product
// takes, and their scales. One struct per weight format, over the lane vocabulary V (panel_lanes_*.h).
#pragma once

#include "kernels_cpu/simd/c_headers.h"
#include "quant/panel_layout.h"

namespace sluice::cpu {
namespace {

/// How a format's codes become a weight, and so which dot product they take.
enum class Codes {
  kSigned,   // value = scale * code, code a signed byte
  kOffset,   // value = scale * (code - offset), the activation's terms hold -offset * sum
  kMinimum,  // value = scale * code - min, the terms hold the sum
};

/// 32 columns of V::kLanes rows. words[i] holds columns 4i .. 4i + 3 of each row.
template <class V>
struct Block32 {
  typename V::I words[8];
  typename V::F scales[2];  // of 16 columns each, or scales[0] of all 32
  typename V::F min;        // Codes::kMinimum only
};

/// The lanes [lane, lane + V::kLanes) of a panel.
template <class V>
struct PanelLanes {
  const std::byte* quants;
  const std::byte* scales;
  int64_t lane;

  typename V::I word(int64_t i) const { return V::words(quants + (i * quant::kPanelRows + lane) * 4); }
  /// The vector of scales at this byte offset, each `bytes` long.
  const std::byte* scale_at(int64_t offset, int64_t bytes) const { return scales + offset + lane * bytes; }
  typename V::I scale_word(int64_t offset) const { return V::words(scale_at(offset, 4)); }
};

/// Low or high nibbles (shift 0 or 4) as bytes.
template <class V>
[[gnu::always_inline]] inline typename V::I nibbles(typename V::I word, int shift) {
  return V::bits(V::shift_right(word, shift), 0x0F0F0F0F);
}

/// Bytes 0 or 16 from the lowest four bits: bit k goes to byte k.
template <class V>
[[gnu::always_inline]] inline typename V::I fifth_bits_of(typename V::I four) {
  four = V::either(four, V::shift_left(four, 7));
  four = V::either(four, V::shift_left(four, 14));
  return V::shift_left(V::bits(four, 0x01010101), 4);
}

struct PanelQ8_0 {
  static constexpr Codes kCodes = Codes::kSigned;
  static constexpr int kGroups = 1;
  static constexpr int64_t kQuantBytes = 512;  // of 32 columns of a panel
  static constexpr int64_t kScaleBytes = 32;

  template <class V>
  [[gnu::always_inline]] static void load(const PanelLanes<V>& p, int64_t b, Block32<V>& out) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      out.words[i] = V::signed_codes(p.word(b * 8 + i));
    }
    out.scales[0] = V::halves(p.scale_at(b * 32, 2));
  }
};

struct PanelQ4_0 {
  static constexpr Codes kCodes = Codes::kOffset;
  static constexpr int kGroups = 1;
  static constexpr int64_t kQuantBytes = 256;  // of 32 columns of a panel
  static constexpr int64_t kScaleBytes = 32;

  template <class V>
  [[gnu::always_inline]] static void load(const PanelLanes<V>& p, int64_t b, Block32<V>& out) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const typename V::I word = p.word(b * 4 + i);
      out.words[i] = nibbles<V>(word, 0);
      out.words[i + 4] = nibbles<V>(word, 4);
    }
    out.scales[0] = V::halves(p.scale_at(b * 32, 2));
  }
};

struct PanelQ5_0 {
  static constexpr Codes kCodes = Codes::kOffset;
  static constexpr int kGroups = 1;
  static constexpr int64_t kQuantBytes = 320;  // of 32 columns of a panel
  static constexpr int64_t kScaleBytes = 32;

  template <class V>
  [[gnu::always_inline]] static void load(const PanelLanes<V>& p, int64_t b, Block32<V>& out) {
    const typename V::I high = p.word(b * 5);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const typename V::I word = p.word(b * 5 + 1 + i);
      const typename V::I first = V::bits(V::shift_right(high, 4 * i), 0xF);
      const typename V::I second = V::bits(V::shift_right(high, 16 + 4 * i), 0xF);
      out.words[i] = V::either(nibbles<V>(word, 0), fifth_bits_of<V>(first));
      out.words[i + 4] = V::either(nibbles<V>(word, 4), fifth_bits_of<V>(second));
    }
    out.scales[0] = V::halves(p.scale_at(b * 32, 2));
  }
};

struct PanelMXFP4 {
  static constexpr Codes kCodes = Codes::kOffset;
  static constexpr int kGroups = 1;
  static constexpr int64_t kQuantBytes = 256;  // of 32 columns of a panel
  static constexpr int64_t kScaleBytes = 16;

  template <class V>
  [[gnu::always_inline]] static void load(const PanelLanes<V>& p, int64_t b, Block32<V>& out) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const typename V::I word = p.word(b * 4 + i);
      V::e2m1_doubled_plus_16(word, out.words[i], out.words[i + 4]);
    }
    out.scales[0] = V::e8m0_halved(p.scale_at(b * 16, 1));
  }
};

struct PanelNVFP4 {
  static constexpr Codes kCodes = Codes::kOffset;
  static constexpr int kGroups = 2;
  static constexpr int64_t kQuantBytes = 256;  // of 32 columns of a panel
  static constexpr int64_t kScaleBytes = 32;

  template <class V>
  [[gnu::always_inline]] static void load(const PanelLanes<V>& p, int64_t b, Block32<V>& out) {
#pragma GCC unroll 2
    for (int64_t g = 0; g < 2; ++g) {
      // A sub-block of 16: two words, each with columns c .. c + 3 in its low nibbles and c + 8 .. c + 11 in
      // the high.
#pragma GCC unroll 2
      for (int64_t i = 0; i < 2; ++i) {
        const typename V::I word = p.word(b * 4 + g * 2 + i);
        V::e2m1_doubled_plus_16(word, out.words[4 * g + i], out.words[4 * g + i + 2]);
      }
    }
    V::e4m3_halved(p.scale_at(b * 32, 1), out.scales);
  }
};

/// Scale and minimum j of the eight that three words pack (quant/k_scales.h), times d and dmin.
template <class V>
[[gnu::always_inline]] inline void k_scale_min(const PanelLanes<V>& p, int64_t block, int j,
                                               Block32<V>& out) {
  const int64_t at = block * 256;
  const int byte = 8 * (j % 4);
  typename V::I scale;
  typename V::I min;
  if (j < 4) {
    scale = V::bits(V::shift_right(p.scale_word(at + 64), byte), 63);
    min = V::bits(V::shift_right(p.scale_word(at + 128), byte), 63);
  } else {
    const typename V::I low = V::shift_right(p.scale_word(at + 192), byte);
    const typename V::I scale_top = V::bits(V::shift_right(p.scale_word(at + 64), byte + 6), 3);
    const typename V::I min_top = V::bits(V::shift_right(p.scale_word(at + 128), byte + 6), 3);
    scale = V::either(V::bits(low, 15), V::shift_left(scale_top, 4));
    min = V::either(V::bits(V::shift_right(low, 4), 15), V::shift_left(min_top, 4));
  }
  out.scales[0] = V::mul(V::halves(p.scale_at(at, 2)), V::to_float(scale));
  out.min = V::mul(V::halves(p.scale_at(at + 32, 2)), V::to_float(min));
}

struct PanelQ4_K {
  static constexpr Codes kCodes = Codes::kMinimum;
  static constexpr int kGroups = 1;
  static constexpr int64_t kQuantBytes = 256;  // of 32 columns of a panel
  static constexpr int64_t kScaleBytes = 32;

  template <class V>
  [[gnu::always_inline]] static void load(const PanelLanes<V>& p, int64_t b, Block32<V>& out) {
    const int64_t block = b / 8;
    const auto j = static_cast<int>(b % 8);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      out.words[i] = nibbles<V>(p.word(block * 32 + b % 8 / 2 * 8 + i), 4 * (j % 2));
    }
    k_scale_min<V>(p, block, j, out);
  }
};

struct PanelQ5_K {
  static constexpr Codes kCodes = Codes::kMinimum;
  static constexpr int kGroups = 1;
  static constexpr int64_t kQuantBytes = 320;  // of 32 columns of a panel
  static constexpr int64_t kScaleBytes = 32;

  template <class V>
  [[gnu::always_inline]] static void load(const PanelLanes<V>& p, int64_t b, Block32<V>& out) {
    const int64_t block = b / 8;
    const auto j = static_cast<int>(b % 8);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const typename V::I high = V::bits(V::shift_right(p.word(block * 40 + i), j), 0x01010101);
      const typename V::I low = nibbles<V>(p.word(block * 40 + 8 + b % 8 / 2 * 8 + i), 4 * (j % 2));
      out.words[i] = V::either(low, V::shift_left(high, 4));
    }
    k_scale_min<V>(p, block, j, out);
  }
};

struct PanelQ6_K {
  static constexpr Codes kCodes = Codes::kOffset;
  static constexpr int kGroups = 2;
  static constexpr int64_t kQuantBytes = 384;  // of 32 columns of a panel
  static constexpr int64_t kScaleBytes = 36;

  template <class V>
  [[gnu::always_inline]] static void load(const PanelLanes<V>& p, int64_t b, Block32<V>& out) {
    const int64_t block = b / 8;
    const int64_t half = b % 8 / 4;
    const int64_t quarter = b % 4;
    const auto low_shift = static_cast<int>(quarter / 2 * 4);
    const auto high_shift = static_cast<int>(2 * quarter);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const typename V::I low = p.word(block * 48 + half * 16 + quarter % 2 * 8 + i);
      const typename V::I high = p.word(block * 48 + 32 + half * 8 + i);
      const typename V::I top = V::bits(V::shift_right(high, high_shift), 0x03030303);
      out.words[i] = V::either(nibbles<V>(low, low_shift), V::shift_left(top, 4));
    }
    const typename V::F d = V::halves(p.scale_at(block * 288 + 256, 2));
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
      out.scales[g] = V::mul(d, V::signed_bytes(p.scale_at(block * 288 + (b % 8 * 2 + g) * 16, 1)));
    }
  }
};

/// Calls use.operator()<Format, type>() for every format above.
template <class Use>
constexpr void for_each_int8_format(const Use& use) {
  using quant::DType;
  use.template operator()<PanelQ8_0, DType::kQ8_0>();
  use.template operator()<PanelQ4_0, DType::kQ4_0>();
  use.template operator()<PanelQ5_0, DType::kQ5_0>();
  use.template operator()<PanelMXFP4, DType::kMXFP4>();
  use.template operator()<PanelNVFP4, DType::kNVFP4>();
  use.template operator()<PanelQ4_K, DType::kQ4_K>();
  use.template operator()<PanelQ5_K, DType::kQ5_K>();
  use.template operator()<PanelQ6_K, DType::kQ6_K>();
}

}  // namespace
}  // namespace sluice::cpu
