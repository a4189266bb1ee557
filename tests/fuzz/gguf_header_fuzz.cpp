// libFuzzer target: any bytes as a GGUF file. It is refused with an Error, or every tensor lies in the file
// with the size that its shape says.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "quant/base/error.h"
#include "quant/gguf_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  try {
    const sluice::quant::GgufHeader header = sluice::quant::parse_gguf(file, "fuzz");
    for (const sluice::quant::Tensor& tensor : header.tensors) {
      const auto start = static_cast<size_t>(tensor.bytes.data() - file.data());
      const int64_t n_bytes = sluice::quant::row_bytes(tensor.dtype, tensor.elements());
      if (static_cast<int64_t>(tensor.bytes.size()) != n_bytes || start > size ||
          tensor.bytes.size() > size - start) {
        std::abort();
      }
    }
  } catch (const sluice::Error&) {
    // Refused, as it should be.
  }
  return 0;
}
