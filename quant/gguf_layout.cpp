// Alignment and tensor sizes of GGUF files, checked.
#include "quant/gguf_layout.h"

#include <fmt/format.h>

#include <bit>
#include <limits>

#include "quant/base/error.h"

namespace sluice::quant {
namespace {

constexpr std::string_view kAlignmentKey = "general.alignment";
constexpr uint32_t kDefaultAlignment = 32;
// The format asks for a multiple of 8; with less, 64-bit elements would lie misaligned in the mapping.
constexpr uint32_t kSmallestAlignment = 8;

// A tensor this large is no tensor, and leaves room to add padding and offsets without overflow.
constexpr int64_t kMaxTensorBytes = std::numeric_limits<int64_t>::max() / 4;

}  // namespace

int64_t gguf_alignment(const GgufMetadata& metadata) {
  const uint32_t alignment = metadata.get_or(kAlignmentKey, kDefaultAlignment);
  if (!std::has_single_bit(alignment) || alignment < kSmallestAlignment) {
    throw Error(metadata.subject_of(kAlignmentKey), fmt::format("a power of two from {}", kSmallestAlignment),
                fmt::format("{}", alignment));
  }
  return alignment;
}

int64_t checked_tensor_bytes(const Tensor& tensor, const std::string& subject) {
  if (tensor.n_dims < 0 || tensor.n_dims > static_cast<int>(kGgufMaxDims)) {
    throw Error(subject, fmt::format("at most {} dimensions", kGgufMaxDims),
                fmt::format("{}", tensor.n_dims));
  }
  int64_t elements = 1;
  bool overflow = false;
  for (const int64_t ne : tensor.ne) {
    if (ne < 1) {
      throw Error(subject, "positive dimensions", shape_text(tensor));
    }
    overflow = overflow || __builtin_mul_overflow(elements, ne, &elements);
  }
  const DTypeInfo& info = dtype_info(tensor.dtype);
  if (tensor.ne[0] % info.elements_per_block != 0) {
    throw Error(subject,
                fmt::format("rows that are a multiple of {} elements for type {}", info.elements_per_block,
                            info.name),
                fmt::format("{}", tensor.ne[0]));
  }
  int64_t bytes = 0;
  overflow = overflow ||
             __builtin_mul_overflow(elements / info.elements_per_block, info.bytes_per_block, &bytes) ||
             bytes > kMaxTensorBytes;
  if (overflow) {
    throw Error(subject, "a size of 63 bits", fmt::format("shape {}", shape_text(tensor)));
  }
  return bytes;
}

}  // namespace sluice::quant
