// What conversion and requantization share: declared tensors, a count of what has been written, the parameter
// label, the number of threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "engine/convert/convert.h"
#include "quant/tensor.h"

namespace sluice::convert {

/// A tensor without bytes, as GgufWriter wants it declared. `ne` has 1 to 4 dimensions.
quant::Tensor declare_tensor(std::string name, quant::DType dtype, std::span<const int64_t> ne);
/// The second-level scales of `weight`: F32, one per slice of the third dimension, or one.
quant::Tensor declare_scale(const quant::Tensor& weight);

int64_t tensor_bytes(const quant::Tensor& tensor);

/// Parameters in words, three digits at most: "671B", "59.6M".
std::string size_label(int64_t parameters);

/// options.threads, or all physical cores.
int64_t encoding_threads(const ConvertOptions& options);

/// Tells the caller's callback how far the file is.
class ProgressMeter {
 public:
  ProgressMeter(const ConvertProgress& progress, const std::filesystem::path& output,
                std::span<const quant::Tensor> tensors);

  /// `bytes` more of `tensor` are in the file. Throws Error when the callback asks to stop.
  void wrote(const quant::Tensor& tensor, int64_t bytes);

 private:
  const ConvertProgress& progress_;
  std::string output_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

}  // namespace sluice::convert
