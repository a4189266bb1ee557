// Knows where the scales of each format lie (docs/formats.md).
#include "support/non_finite.h"

#include <fstream>
#include <stdexcept>
#include <vector>

#include "quant/gguf_reader.h"

namespace sluice::testing {
namespace {

using quant::DType;

/// A scale, or a plain float, by the byte in its block whose upper bits hold the exponent.
struct Exponent {
  size_t byte;
  std::vector<uint8_t> non_finite;  // what may stand there
};

const std::vector<uint8_t> kHalf{0x7C, 0xFC, 0x7E};  // F16: infinities and a NaN, whatever the lower byte

std::vector<Exponent> exponents(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {{3, {0x7F, 0xFF}}};  // with 0x80 in the byte before: see below
    case DType::kBF16:
      return {{1, {0x7F, 0xFF}}};
    case DType::kF16:
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ5_0:
      return {{1, kHalf}};
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {{1, kHalf}, {3, kHalf}};
    case DType::kQ6_K:
      return {{209, kHalf}};
    case DType::kMXFP4:
      return {{0, {0xFF}}};
    case DType::kNVFP4:
      return {{0, {0x7F}}, {1, {0x7F}}, {2, {0x7F}}, {3, {0x7F, 0xFF}}};
    default:
      throw std::runtime_error("no weights of this type");
  }
}

template <typename T>
const T& any_of(const std::vector<T>& values, Random& random) {
  return values[static_cast<size_t>(random.integer(0, static_cast<int64_t>(values.size()) - 1))];
}

}  // namespace

void plant_non_finite(DType dtype, std::span<std::byte> blocks, int64_t element, Random& random) {
  const quant::DTypeInfo& info = quant::dtype_info(dtype);
  const Exponent exponent = any_of(exponents(dtype), random);
  std::byte* const block = blocks.data() + element / info.elements_per_block * info.bytes_per_block;
  block[exponent.byte] = std::byte{any_of(exponent.non_finite, random)};
  if (dtype == DType::kF32 || dtype == DType::kBF16) {  // the exponent's last bit
    block[exponent.byte - 1] |= std::byte{0x80};
  }
}

void plant_non_finite(const std::filesystem::path& file, const std::string& tensor, int64_t element,
                      Random& random) {
  const quant::GgufFile model = quant::GgufFile::open(file);
  const quant::Tensor& found = *model.find(tensor);
  std::vector<std::byte> bytes(found.bytes.begin(), found.bytes.end());
  plant_non_finite(found.dtype, bytes, element, random);
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekp(found.bytes.data() - model.shards()[0].bytes().data());
  stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

}  // namespace sluice::testing
