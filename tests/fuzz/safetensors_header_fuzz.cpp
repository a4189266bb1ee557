// libFuzzer target: any bytes as a safetensors file, and any text as the header of one. It is refused with an
// Error, or the tensors lie one after the other in the data and have the sizes of their shapes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "quant/base/error.h"
#include "quant/safetensors_reader.h"

namespace {

constexpr size_t kDataBytes = 48;  // behind a header that is the whole input

void parse(std::span<const std::byte> file) {
  try {
    const auto tensors = sluice::quant::parse_safetensors(file, "fuzz");
    const std::byte* end = tensors.empty() ? file.data() + file.size() : tensors.front().bytes.data();
    for (const auto& tensor : tensors) {
      int64_t bytes = sluice::quant::safetensors_type_bytes(tensor.dtype);
      for (const int64_t extent : tensor.shape) bytes *= extent;
      if (tensor.bytes.data() != end || std::ssize(tensor.bytes) != bytes) std::abort();
      end += tensor.bytes.size();
    }
    if (end != file.data() + file.size()) std::abort();
  } catch (const sluice::Error&) {
    // Refused, as it should be.
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  parse(std::as_bytes(std::span(data, size)));
  std::vector<std::byte> file(sizeof(uint64_t) + size + kDataBytes);
  const uint64_t header_bytes = size;
  std::memcpy(file.data(), &header_bytes, sizeof(header_bytes));
  if (size > 0) std::memcpy(file.data() + sizeof(header_bytes), data, size);
  parse(file);
  return 0;
}
