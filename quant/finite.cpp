// Finiteness of floats is a matter of their exponent bits; that of blocks, of their scales.
#include "quant/finite.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>

#include "quant/base/error.h"
#include "quant/block_codec.h"
#include "quant/mxfp4.h"
#include "quant/nvfp4.h"
#include "quant/q4_0.h"
#include "quant/q4_k.h"
#include "quant/q5_0.h"
#include "quant/q5_k.h"
#include "quant/q6_k.h"
#include "quant/q8_0.h"

namespace sluice::quant {
namespace {

constexpr size_t kPiece = 256;  // small enough for the cache, a multiple of every block

constexpr bool finite_f32(float value) {
  return (std::bit_cast<uint32_t>(value) & 0x7F800000U) != 0x7F800000U;
}

// All products of a finite f16 scale with the codes of a block stay far below float's largest value.
constexpr bool finite_f16(uint16_t bits) {
  return (bits & 0x7C00U) != 0x7C00U;
}

template <typename Block>
bool finite_scales(const Block& block) {
  return finite_f16(block.d);
}

template <>
bool finite_scales(const BlockQ4_K& block) {
  return finite_f16(block.d) && finite_f16(block.dmin);
}

template <>
bool finite_scales(const BlockQ5_K& block) {
  return finite_f16(block.d) && finite_f16(block.dmin);
}

// 255 is NaN by the format's definition; 12 * 2^(253 - 128) is too large for a float.
template <>
bool finite_scales(const BlockMXFP4& block) {
  if (block.e < 253) {
    return true;
  }
  std::array<float, BlockMXFP4::kElements> values;
  dequantize(block, values);
  return block.e != 255 && !find_non_finite(values);
}

// 0x7F is e4m3's NaN; the sign bit is ignored (nvfp4.h).
template <>
bool finite_scales(const BlockNVFP4& block) {
  return std::ranges::none_of(block.d, [](uint8_t scale) { return (scale & 0x7FU) == 0x7FU; });
}

template <typename Block>
std::optional<int64_t> find_in_blocks(std::span<const std::byte> blocks) {
  for (size_t offset = 0; offset < blocks.size(); offset += sizeof(Block)) {
    Block block;
    std::memcpy(&block, blocks.data() + offset, sizeof(Block));
    if (!finite_scales(block)) {
      return static_cast<int64_t>(offset / sizeof(Block)) * Block::kElements;
    }
  }
  return std::nullopt;
}

// Elements of plain floats of which `exponent` is all ones.
template <typename Bits>
std::optional<int64_t> find_in_floats(std::span<const std::byte> elements, Bits exponent) {
  std::array<Bits, kPiece> values;
  const size_t n = elements.size() / sizeof(Bits);
  const auto finite = [exponent](Bits bits) { return static_cast<Bits>(bits & exponent) != exponent; };
  for (size_t begin = 0; begin < n; begin += kPiece) {
    const std::span<Bits> piece = std::span(values).first(std::min(kPiece, n - begin));
    std::memcpy(piece.data(), elements.data() + begin * sizeof(Bits), piece.size_bytes());
    Bits non_finite = 0;  // gathered without a branch, so that the common case is vectorized
    for (const Bits bits : piece) {
      non_finite |= finite(bits) ? Bits{0} : Bits{1};
    }
    if (non_finite != 0) {
      return static_cast<int64_t>(begin) + (std::ranges::find_if_not(piece, finite) - piece.begin());
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<int64_t> find_non_finite(std::span<const float> values) {
  for (size_t begin = 0; begin < values.size(); begin += kPiece) {
    const std::span<const float> piece = values.subspan(begin, std::min(kPiece, values.size() - begin));
    uint32_t non_finite = 0;  // counted without a branch, so that the common case is vectorized
    for (const float value : piece) {
      non_finite += finite_f32(value) ? 0U : 1U;
    }
    if (non_finite != 0) {
      const auto first = std::find_if_not(piece.begin(), piece.end(), finite_f32);
      return static_cast<int64_t>(begin) + (first - piece.begin());
    }
  }
  return std::nullopt;
}

std::optional<int64_t> find_non_finite(DType dtype, std::span<const std::byte> blocks) {
  assert(can_dequantize(dtype));
  assert(blocks.size() % static_cast<size_t>(dtype_info(dtype).bytes_per_block) == 0);
  switch (dtype) {
    case DType::kQ8_0:
      return find_in_blocks<BlockQ8_0>(blocks);
    case DType::kQ4_0:
      return find_in_blocks<BlockQ4_0>(blocks);
    case DType::kQ5_0:
      return find_in_blocks<BlockQ5_0>(blocks);
    case DType::kQ4_K:
      return find_in_blocks<BlockQ4_K>(blocks);
    case DType::kQ5_K:
      return find_in_blocks<BlockQ5_K>(blocks);
    case DType::kQ6_K:
      return find_in_blocks<BlockQ6_K>(blocks);
    case DType::kMXFP4:
      return find_in_blocks<BlockMXFP4>(blocks);
    case DType::kNVFP4:
      return find_in_blocks<BlockNVFP4>(blocks);
    case DType::kF16:
      return find_in_floats<uint16_t>(blocks, 0x7C00);
    case DType::kBF16:
      return find_in_floats<uint16_t>(blocks, 0x7F80);
    default:
      return find_in_floats<uint32_t>(blocks, 0x7F800000);
  }
}

void require_finite(const std::string& subject, DType dtype, int64_t cols, std::span<const std::byte> blocks,
                    TensorPlace first) {
  const std::optional<int64_t> found = find_non_finite(dtype, blocks);
  if (found.has_value()) {
    const bool in_block = dtype_info(dtype).elements_per_block > 1;
    throw Error(subject, "finite weights",
                fmt::format("infinity or NaN {} {{{}, {}, {}}}", in_block ? "in the block at" : "at",
                            *found % cols, first.row + *found / cols, first.slice));
  }
}

}  // namespace sluice::quant
