// Declared tensors and progress.
#include "engine/convert/output_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>

#include "engine/convert/tensor_names.h"
#include "offload/machine.h"
#include "quant/base/error.h"

namespace sluice::convert {

quant::Tensor declare_tensor(std::string name, quant::DType dtype, std::span<const int64_t> ne) {
  assert(!ne.empty() && ne.size() <= 4);
  quant::Tensor tensor;
  tensor.name = std::move(name);
  tensor.dtype = dtype;
  tensor.n_dims = static_cast<int>(ne.size());
  std::copy(ne.begin(), ne.end(), tensor.ne.begin());
  return tensor;
}

quant::Tensor declare_scale(const quant::Tensor& weight) {
  const std::array<int64_t, 1> ne{weight.ne[2] * weight.ne[3]};
  return declare_tensor(scale_name(weight.name), quant::DType::kF32, ne);
}

int64_t tensor_bytes(const quant::Tensor& tensor) {
  return quant::row_bytes(tensor.dtype, tensor.ne[0]) * tensor.ne[1] * tensor.ne[2] * tensor.ne[3];
}

std::string size_label(int64_t parameters) {
  struct Unit {
    double size;
    char letter;
  };
  for (const Unit unit : {Unit{1e12, 'T'}, Unit{1e9, 'B'}, Unit{1e6, 'M'}, Unit{1e3, 'K'}}) {
    const double n = static_cast<double>(parameters) / unit.size;
    if (n >= 1.0) {
      return n < 99.95 ? fmt::format("{:.1f}{}", n, unit.letter) : fmt::format("{:.0f}{}", n, unit.letter);
    }
  }
  return fmt::format("{}", parameters);
}

int64_t encoding_threads(const ConvertOptions& options) {
  return options.threads > 0 ? options.threads : offload::probe_machine().cores;
}

ProgressMeter::ProgressMeter(const ConvertProgress& progress, const std::filesystem::path& output,
                             std::span<const quant::Tensor> tensors)
    : progress_(progress), output_(output.string()) {
  for (const quant::Tensor& tensor : tensors) {
    total_ += tensor_bytes(tensor);
  }
}

void ProgressMeter::wrote(const quant::Tensor& tensor, int64_t bytes) {
  done_ += bytes;
  if (progress_ && !progress_(done_, total_, tensor.name)) {
    throw Error(output_, "to be written to its end", "a request to stop");
  }
}

}  // namespace sluice::convert
