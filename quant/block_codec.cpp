// One table from type to encoder and decoder; each format's arithmetic is in its own file.
#include "quant/block_codec.h"

#include <array>
#include <cassert>
#include <cstring>
#include <string>

#include "quant/base/error.h"
#include "quant/mxfp4.h"
#include "quant/nvfp4.h"
#include "quant/plain.h"
#include "quant/q4_0.h"
#include "quant/q4_k.h"
#include "quant/q5_0.h"
#include "quant/q5_k.h"
#include "quant/q6_k.h"
#include "quant/q8_0.h"

namespace sluice::quant {
namespace {

// Blocks are copied in and out because a mapped file promises no alignment.
template <typename Block>
void dequantize_blocks(std::span<const std::byte> blocks, std::span<float> values) {
  constexpr size_t kElements = Block::kElements;
  for (size_t i = 0; i * kElements < values.size(); ++i) {
    Block block;
    std::memcpy(&block, blocks.data() + i * sizeof(Block), sizeof(Block));
    dequantize(block, values.subspan(i * kElements).template first<kElements>());
  }
}

template <typename Block>
void quantize_blocks(std::span<const float> values, std::span<std::byte> blocks) {
  constexpr size_t kElements = Block::kElements;
  for (size_t i = 0; i * kElements < values.size(); ++i) {
    Block block;
    quantize(values.subspan(i * kElements).template first<kElements>(), block);
    std::memcpy(blocks.data() + i * sizeof(Block), &block, sizeof(Block));
  }
}

struct Codec {
  void (*decode)(std::span<const std::byte> blocks, std::span<float> values) = nullptr;
  void (*encode)(std::span<const float> values, std::span<std::byte> blocks) = nullptr;
};

template <typename Block>
constexpr Codec kBothWays{dequantize_blocks<Block>, quantize_blocks<Block>};
template <typename Block>
constexpr Codec kReadOnly{dequantize_blocks<Block>, nullptr};

constexpr std::array<Codec, kDTypeIdCount> make_codecs() {
  std::array<Codec, kDTypeIdCount> codecs{};
  const auto set = [&codecs](DType dtype, Codec codec) { codecs[static_cast<size_t>(dtype)] = codec; };
  set(DType::kF32, {dequantize_f32, quantize_f32});
  set(DType::kF16, {dequantize_f16, quantize_f16});
  set(DType::kBF16, {dequantize_bf16, quantize_bf16});
  set(DType::kQ8_0, kBothWays<BlockQ8_0>);
  set(DType::kQ4_0, kReadOnly<BlockQ4_0>);
  set(DType::kQ5_0, kReadOnly<BlockQ5_0>);
  set(DType::kQ4_K, kBothWays<BlockQ4_K>);
  set(DType::kQ5_K, kReadOnly<BlockQ5_K>);
  set(DType::kQ6_K, kBothWays<BlockQ6_K>);
  set(DType::kMXFP4, kBothWays<BlockMXFP4>);
  set(DType::kNVFP4, kBothWays<BlockNVFP4>);
  return codecs;
}

constexpr std::array<Codec, kDTypeIdCount> kCodecs = make_codecs();

const Codec& codec_of(DType dtype) {
  assert(static_cast<size_t>(dtype) < kCodecs.size());
  return kCodecs[static_cast<size_t>(dtype)];
}

std::string type_text(DType dtype) {
  return "type " + std::string(dtype_info(dtype).name);
}

}  // namespace

bool can_dequantize(DType dtype) {
  return codec_of(dtype).decode != nullptr;
}

bool can_quantize(DType dtype) {
  return codec_of(dtype).encode != nullptr;
}

void dequantize_row(DType dtype, std::span<const std::byte> blocks, std::span<float> values) {
  if (!can_dequantize(dtype)) {
    throw Error("weights to decode", "a floating-point or quantized type", type_text(dtype));
  }
  assert(static_cast<int64_t>(blocks.size()) == row_bytes(dtype, static_cast<int64_t>(values.size())));
  codec_of(dtype).decode(blocks, values);
}

void quantize_row(DType dtype, std::span<const float> values, std::span<std::byte> blocks) {
  if (!can_quantize(dtype)) {
    throw Error("weights to encode", "one of F32, F16, BF16, Q8_0, Q4_K, Q6_K, MXFP4, NVFP4",
                type_text(dtype));
  }
  assert(static_cast<int64_t>(blocks.size()) == row_bytes(dtype, static_cast<int64_t>(values.size())));
  codec_of(dtype).encode(values, blocks);
}

}  // namespace sluice::quant
