// From the words of a panel (quant/panel.h) to the fragments of an int8 matrix product: one struct per weight
// format.
//
// Lane (g, t) = (lane / 4, lane % 4) holds rows 2g and 2g + 1 of the panel as rows g and g + 8 of the
// product: a word of both is one 8-byte load, and words t = 0..3 together are 256 bytes without a gap. A
// chunk is 32 columns, two words of each row in a lane: a[0], a[1] the first word of the two rows, a[2], a[3]
// the second.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels_cuda/device/mma.cuh"
#include "kernels_cuda/device/ptx.cuh"

namespace sluice::cuda {

/// Which columns of a chunk are the two words of lane t: how activations must be laid out to meet them.
enum class ColumnOrder {
  kWords,      // 4t.. and 16 + 4t..
  kNibbles32,  // 4t, 16 + 4t, 4t + 1, 17 + 4t and the two pairs after them: nibbles of a byte side by side
  kNibbles16,  // the same in each half of 16 columns: c, c + 8, c + 1, c + 9 with c = 16 (t / 2) + 4 (t % 2)
};

/// Columns that share a weight scale.
enum class ScaleGroup {
  kChunk,        // all 32
  kEachWord,     // 16: one scale for the first words, one for the second
  kEachTwoLanes  // 16: one for lanes t = 0, 1, one for t = 2, 3
};

struct ChunkScales {
  float2 scale;   // of rows 2g and 2g + 1; kEachWord: of the first words
  float2 second;  // kEachWord: of the second words
  float2 min;     // what to take away times the sum of the chunk's activations; formats with kHasMin
};

template <typename T>
__device__ __forceinline__ T load_scales(const unsigned char* at) {
  return __ldg(reinterpret_cast<const T*>(at));
}

/// Where a lane is in a panel: `quants` at word t of rows 2g and 2g + 1 in step 0, `scales` at the panel's
/// scales. What differs from lane to lane is in the pointers, so that steps are offsets in the loads.
struct PanelLane {
  const unsigned char* quants;
  const unsigned char* scales;
  int g;
  int t;

  __device__ static PanelLane of(const unsigned char* panel, int64_t scales_at, int lane) {
    return {panel + offset_of(lane), panel + scales_at, lane / 4, lane % 4};
  }
  /// Of `quants` in the panel.
  __device__ static int offset_of(int lane) { return lane % 4 * 64 + lane / 4 * 8; }
  /// Word i + t of both rows, and word i of both rows.
  __device__ uint2 word(int i) const { return ptx::load_streamed(quants + i * 64); }
  __device__ uint2 same_word(int i) const { return ptx::load_streamed(quants - t * 64 + i * 64); }
  /// A scale word of 1, 2 or 4 bytes at byte `at` of the scales, of both rows.
  __device__ uint32_t two_bytes(int at) const { return load_scales<uint16_t>(scales + 2 * g + at); }
  __device__ uint32_t two_halves(int at) const { return load_scales<uint32_t>(scales + 4 * g + at); }
  __device__ uint2 two_words(int at) const { return load_scales<uint2>(scales + 8 * g + at); }
  /// The same of 1 byte where lanes t = 2, 3 have the 16 bytes after those of lanes t = 0, 1.
  __device__ uint32_t two_bytes_by_lane(int at) const {
    return load_scales<uint16_t>(scales + (t / 2 * 16 + 2 * g) + at);
  }
};

__device__ __forceinline__ float2 halves_to_floats(uint32_t bits) {
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}

__device__ __forceinline__ float2 times(float2 a, float b) {
  return {a.x * b, a.y * b};
}

/// What formats without tables of codes need of them.
struct NoTables {
  __device__ explicit NoTables(const uint32_t (&)[4]) {}
};

/// Four times the values of e2m1 codes, half of them in registers (AccumulatorStart says why zeros are
/// added): those of positive codes, and those of negative ones modulo 128.
struct E2m1Tables {
  uint32_t low;
  uint32_t negative_low;

  __device__ explicit E2m1Tables(const uint32_t (&zeros)[4])
      : low(0x06040200U + zeros[0]), negative_low(0x7D7E7F00U + zeros[1]) {}

  /// Nibbles of `word` as signed bytes, in their order. No byte of the tables has its top bit set, so permute
  /// gives 0 where a selector has: one look-up gives the positive codes, one with the signs flipped the
  /// negative ones, in 7 bits that are then doubled.
  __device__ uint2 bytes(uint32_t word) const {
    constexpr uint32_t kHigh = 0x18100C08U;          // 4 * (2 3 4 6)
    constexpr uint32_t kNegativeHigh = 0x74787A7CU;  // -4 -6 -8 -12
    const uint32_t flipped = word ^ 0x88888888U;
    return {
        ptx::permute(negative_low, kNegativeHigh, flipped) * 2 + ptx::permute(low, kHigh, word),
        ptx::permute(negative_low, kNegativeHigh, flipped >> 16) * 2 + ptx::permute(low, kHigh, word >> 16)};
  }
};

struct FormatQ8_0 {
  using Tables = NoTables;
  static constexpr float kFactor = 1.0F;  // of what `chunk` calls scales
  static constexpr ColumnOrder kOrder = ColumnOrder::kWords;
  static constexpr ScaleGroup kGroup = ScaleGroup::kChunk;
  static constexpr bool kHasMin = false;
  static constexpr int kChunks = 1;  // of a step
  static constexpr int kDepth = 4;   // steps in flight
  static constexpr int kStreamWarps =
      32;  // of gemv_stream.cuh on a multiprocessor, one token: 64 registers a thread, 128 with 16 warps
  static constexpr int kQuantStride = 512;  // bytes from step to step; 0: not the same for all steps
  static constexpr int kScaleStride = 32;
  struct Raw {
    uint2 q[2];
    uint32_t d;
  };
  static __device__ Raw load(const PanelLane& p, int step) {
    return {{p.word(step * 8), p.word(step * 8 + 4)}, p.two_halves(step * 32)};
  }
  static __device__ void chunk(const Raw& raw, const Tables&, int, int, uint32_t (&a)[4], ChunkScales& s) {
    a[0] = raw.q[0].x;
    a[1] = raw.q[0].y;
    a[2] = raw.q[1].x;
    a[3] = raw.q[1].y;
    s.scale = halves_to_floats(raw.d);
  }
};

struct FormatMXFP4 {
  using Tables = E2m1Tables;
  static constexpr float kFactor = 0.5F;
  static constexpr ColumnOrder kOrder = ColumnOrder::kNibbles32;
  static constexpr ScaleGroup kGroup = ScaleGroup::kChunk;
  static constexpr bool kHasMin = false;
  static constexpr int kChunks = 1;
  static constexpr int kDepth = 4;
  static constexpr int kStreamWarps = 16;
  static constexpr int kQuantStride = 256;
  static constexpr int kScaleStride = 16;
  struct Raw {
    uint2 q;
    uint32_t e;
  };
  static __device__ Raw load(const PanelLane& p, int step) {
    return {p.word(step * 4), p.two_bytes(step * 16)};
  }
  /// 2^(e - 128), quant/mxfp4.h; the bytes are twice the doubled codes.
  static __device__ float scale_of(uint32_t e) {
    return __uint_as_float(e < 2 ? 0x00200000U << e : (e - 1) << 23);
  }
  static __device__ void chunk(const Raw& raw, const Tables& tables, int, int, uint32_t (&a)[4],
                               ChunkScales& s) {
    const uint2 first = tables.bytes(raw.q.x);
    const uint2 second = tables.bytes(raw.q.y);
    a[0] = first.x;
    a[1] = second.x;
    a[2] = first.y;
    a[3] = second.y;
    s.scale = {scale_of(raw.e & 255U), scale_of(raw.e >> 8)};
  }
};

struct FormatNVFP4 {
  using Tables = E2m1Tables;
  static constexpr float kFactor = 0x1p6F;
  static constexpr ColumnOrder kOrder = ColumnOrder::kNibbles16;
  static constexpr ScaleGroup kGroup = ScaleGroup::kEachTwoLanes;
  static constexpr bool kHasMin = false;
  static constexpr int kChunks = 1;
  static constexpr int kDepth = 4;
  static constexpr int kStreamWarps = 32;
  static constexpr int kQuantStride = 256;
  static constexpr int kScaleStride = 32;
  struct Raw {
    uint2 q;
    uint32_t d;
  };
  static __device__ Raw load(const PanelLane& p, int step) {
    return {p.word(step * 4), p.two_bytes_by_lane(step * 32)};
  }
  /// Two e4m3 scales without their signs, the code for NaN as 0 (quant/nvfp4.h), 2^-8 of their value: as bits
  /// of halves, subnormals included. Of values a quarter is meant: kFactor is 2^8 / 4.
  static __device__ float2 scales_of(uint32_t two) {
    const uint32_t codes = ptx::permute(two, 0, 0x4140) & 0x007F007FU;
    const uint32_t nan = (codes + 0x00010001U) & 0x00800080U;
    return halves_to_floats(codes * 128U - nan * 127U);
  }
  static __device__ void chunk(const Raw& raw, const Tables& tables, int, int, uint32_t (&a)[4],
                               ChunkScales& s) {
    const uint2 first = tables.bytes(raw.q.x);
    const uint2 second = tables.bytes(raw.q.y);
    a[0] = first.x;
    a[1] = second.x;
    a[2] = first.y;
    a[3] = second.y;
    s.scale = scales_of(raw.d);
  }
};

/// Codes less half their range: moved to the top of a byte, they are signed once the top bit is flipped, and
/// 2^(8 - bits) too large.
struct FormatQ4_0 {
  using Tables = NoTables;
  static constexpr float kFactor = 1.0F;
  static constexpr ColumnOrder kOrder = ColumnOrder::kWords;
  static constexpr ScaleGroup kGroup = ScaleGroup::kChunk;
  static constexpr bool kHasMin = false;
  static constexpr int kChunks = 1;
  static constexpr int kDepth = 4;
  static constexpr int kStreamWarps = 16;
  static constexpr int kQuantStride = 256;
  static constexpr int kScaleStride = 32;
  struct Raw {
    uint2 q;
    uint32_t d;
  };
  static __device__ Raw load(const PanelLane& p, int step) {
    return {p.word(step * 4), p.two_halves(step * 32)};
  }
  static __device__ uint32_t high(uint32_t word) { return (word & 0xF0F0F0F0U) ^ 0x80808080U; }
  static __device__ void chunk(const Raw& raw, const Tables&, int, int, uint32_t (&a)[4], ChunkScales& s) {
    a[0] = high(raw.q.x << 4);
    a[1] = high(raw.q.y << 4);
    a[2] = high(raw.q.x);
    a[3] = high(raw.q.y);
    s.scale = times(halves_to_floats(raw.d), 0.0625F);
  }
};

struct FormatQ5_0 {
  using Tables = NoTables;
  static constexpr float kFactor = 1.0F;
  static constexpr ColumnOrder kOrder = ColumnOrder::kWords;
  static constexpr ScaleGroup kGroup = ScaleGroup::kChunk;
  static constexpr bool kHasMin = false;
  static constexpr int kChunks = 1;
  static constexpr int kDepth = 4;
  static constexpr int kStreamWarps = 16;
  static constexpr int kQuantStride = 320;
  static constexpr int kScaleStride = 32;
  struct Raw {
    uint2 q;
    uint2 top;
    uint32_t d;
    int t;
  };
  static __device__ Raw load(const PanelLane& p, int step) {
    return {p.word(step * 5 + 1), p.same_word(step * 5), p.two_halves(step * 32), p.t};
  }
  /// Bits 0..3 of `top` become bits 7 of the four bytes, the nibbles bits 6..3.
  static __device__ uint32_t codes(uint32_t nibbles, uint32_t top) {
    const uint32_t spread = ((top & 15U) * 0x00204081U & 0x01010101U) << 7;
    return ((nibbles & 0x0F0F0F0FU) << 3 | spread) ^ 0x80808080U;
  }
  static __device__ void chunk(const Raw& raw, const Tables&, int, int, uint32_t (&a)[4], ChunkScales& s) {
    a[0] = codes(raw.q.x, raw.top.x >> 4 * raw.t);
    a[1] = codes(raw.q.y, raw.top.y >> 4 * raw.t);
    a[2] = codes(raw.q.x >> 4, raw.top.x >> (16 + 4 * raw.t));
    a[3] = codes(raw.q.y >> 4, raw.top.y >> (16 + 4 * raw.t));
    s.scale = times(halves_to_floats(raw.d), 0.125F);
  }
};

/// Scales of Q4_K and Q5_K: of a block of 256 columns d and dmin and three words of packed levels
/// (quant/k_scales.h).
struct KScales {
  uint32_t d;
  uint32_t dmin;
  uint2 packed[3];

  static __device__ KScales load(const PanelLane& p, int block) {
    const int at = block * 256;
    return {p.two_halves(at),
            p.two_halves(at + 32),
            {p.two_words(at + 64), p.two_words(at + 128), p.two_words(at + 192)}};
  }
  static __device__ float2 levels(uint32_t scales, uint32_t mins, uint32_t rest, int j) {
    const int byte = 8 * (j % 4);
    if (j < 4) return {static_cast<float>(scales >> byte & 63U), static_cast<float>(mins >> byte & 63U)};
    return {static_cast<float>((rest >> byte & 15U) | (scales >> (byte + 6) & 3U) << 4),
            static_cast<float>((rest >> (byte + 4) & 15U) | (mins >> (byte + 6) & 3U) << 4)};
  }
  /// Sub-block j of 32 columns.
  __device__ void of(int j, ChunkScales& s) const {
    const float2 first = levels(packed[0].x, packed[1].x, packed[2].x, j);
    const float2 second = levels(packed[0].y, packed[1].y, packed[2].y, j);
    const float2 scale = halves_to_floats(d);
    const float2 min = halves_to_floats(dmin);
    s.scale = {scale.x * first.x, scale.y * second.x};
    s.min = {min.x * first.y, min.y * second.y};
  }
};

struct FormatQ4_K {
  using Tables = NoTables;
  static constexpr float kFactor = 1.0F;
  static constexpr ColumnOrder kOrder = ColumnOrder::kWords;
  static constexpr ScaleGroup kGroup = ScaleGroup::kChunk;
  static constexpr bool kHasMin = true;
  static constexpr int kChunks = 2;  // the low and the high nibbles of eight words
  static constexpr int kDepth = 2;
  static constexpr int kStreamWarps = 16;
  static constexpr int kQuantStride = 0;
  static constexpr int kScaleStride = 0;
  struct Raw {
    uint2 q[2];
    KScales scales;
  };
  static __device__ Raw load(const PanelLane& p, int step) {
    return {{p.word(step * 8), p.word(step * 8 + 4)}, KScales::load(p, step / 4)};
  }
  static __device__ void chunk(const Raw& raw, const Tables&, int c, int step, uint32_t (&a)[4],
                               ChunkScales& s) {
    a[0] = raw.q[0].x >> 4 * c & 0x0F0F0F0FU;
    a[1] = raw.q[0].y >> 4 * c & 0x0F0F0F0FU;
    a[2] = raw.q[1].x >> 4 * c & 0x0F0F0F0FU;
    a[3] = raw.q[1].y >> 4 * c & 0x0F0F0F0FU;
    raw.scales.of(step % 4 * 2 + c, s);
  }
};

struct FormatQ5_K {
  using Tables = NoTables;
  static constexpr float kFactor = 1.0F;
  static constexpr ColumnOrder kOrder = ColumnOrder::kWords;
  static constexpr ScaleGroup kGroup = ScaleGroup::kChunk;
  static constexpr bool kHasMin = true;
  static constexpr int kChunks = 2;
  static constexpr int kDepth = 2;
  static constexpr int kStreamWarps = 16;
  static constexpr int kQuantStride = 0;
  static constexpr int kScaleStride = 0;
  struct Raw {
    uint2 q[2];
    uint2 top[2];
    KScales scales;
  };
  static __device__ Raw load(const PanelLane& p, int step) {
    const int first = step / 4 * 40;
    const int q = first + 8 + step % 4 * 8;
    return {{p.word(q), p.word(q + 4)}, {p.word(first), p.word(first + 4)}, KScales::load(p, step / 4)};
  }
  static __device__ uint32_t codes(uint32_t nibbles, uint32_t top) {
    return (nibbles & 0x0F0F0F0FU) | (top & 0x01010101U) << 4;
  }
  static __device__ void chunk(const Raw& raw, const Tables&, int c, int step, uint32_t (&a)[4],
                               ChunkScales& s) {
    const int j = step % 4 * 2 + c;
    a[0] = codes(raw.q[0].x >> 4 * c, raw.top[0].x >> j);
    a[1] = codes(raw.q[0].y >> 4 * c, raw.top[0].y >> j);
    a[2] = codes(raw.q[1].x >> 4 * c, raw.top[1].x >> j);
    a[3] = codes(raw.q[1].y >> 4 * c, raw.top[1].y >> j);
    raw.scales.of(j, s);
  }
};

struct FormatQ6_K {
  using Tables = NoTables;
  static constexpr float kFactor = 1.0F;
  static constexpr ColumnOrder kOrder = ColumnOrder::kWords;
  static constexpr ScaleGroup kGroup = ScaleGroup::kEachWord;
  static constexpr bool kHasMin = false;
  static constexpr int kChunks = 4;  // half a block: four quarters of 32 columns
  static constexpr int kDepth = 1;
  static constexpr int kStreamWarps = 16;
  static constexpr int kQuantStride = 0;
  static constexpr int kScaleStride = 0;
  struct Raw {
    uint2 low[4];
    uint2 top[2];
    uint32_t levels[8];
    uint32_t d;
  };
  static __device__ Raw load(const PanelLane& p, int step) {
    const int first = step / 2 * 48;
    const int low = first + step % 2 * 16;
    const int top = first + 32 + step % 2 * 8;
    const int scales = step / 2 * 288;
    Raw raw{{p.word(low), p.word(low + 4), p.word(low + 8), p.word(low + 12)},
            {p.word(top), p.word(top + 4)},
            {},
            p.two_halves(scales + 256)};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      raw.levels[i] = p.two_bytes(scales + (step % 2 * 8 + i) * 16);
    }
    return raw;
  }
  /// Six bits at the top of each byte, less 32: four times too large.
  static __device__ uint32_t codes(uint32_t low, uint32_t top, int quarter) {
    const uint32_t nibbles = low >> (quarter / 2 * 4) & 0x0F0F0F0FU;
    return (nibbles << 2 | (top >> 2 * quarter & 0x03030303U) << 6) ^ 0x80808080U;
  }
  static __device__ float2 level(uint32_t two) {
    return {static_cast<float>(static_cast<int8_t>(two)), static_cast<float>(static_cast<int8_t>(two >> 8))};
  }
  static __device__ void chunk(const Raw& raw, const Tables&, int c, int, uint32_t (&a)[4], ChunkScales& s) {
    const uint2 first = raw.low[c % 2 * 2];
    const uint2 second = raw.low[c % 2 * 2 + 1];
    a[0] = codes(first.x, raw.top[0].x, c);
    a[1] = codes(first.y, raw.top[0].y, c);
    a[2] = codes(second.x, raw.top[1].x, c);
    a[3] = codes(second.y, raw.top[1].y, c);
    const float2 d = times(halves_to_floats(raw.d), 0.25F);
    const float2 one = level(raw.levels[2 * c]);
    const float2 two = level(raw.levels[2 * c + 1]);
    s.scale = {d.x * one.x, d.y * one.y};
    s.second = {d.x * two.x, d.y * two.y};
  }
};

}  // namespace sluice::cuda
