// Text of a tensor's shape.
#include "quant/tensor.h"

#include <fmt/format.h>

namespace sluice::quant {

std::string shape_text(const Tensor& tensor) {
  assert(tensor.n_dims >= 0 && tensor.n_dims <= static_cast<int>(tensor.ne.size()));
  std::string text = "{";
  for (size_t i = 0; i < static_cast<size_t>(tensor.n_dims); ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ", ", tensor.ne[i]);
  }
  return text + "}";
}

}  // namespace sluice::quant
