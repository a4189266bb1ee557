// A GGUF file against what it should hold.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "quant/gguf_reader.h"
#include "support/expected_gguf.h"

namespace sluice::testing {

/// Decoded elements, times the second-level scale when the file has one for it.
std::vector<float> decode_tensor(const quant::GgufFile& file, const quant::Tensor& tensor);

/// sqrt(sum (a - b)^2 / sum b^2); 0 when both are all zero.
double relative_rms(const std::vector<float>& found, const std::vector<float>& wanted);

/// Every expected tensor is there with its shape, and float32 where that is the rule; no other tensor is, but
/// for
/// `.scale` companions. With `tolerance` 0 decoded values must be equal, else their relative RMS error within
/// it.
void expect_holds(const quant::GgufFile& file, const std::map<std::string, ExpectedTensor>& expected,
                  double tolerance);

}  // namespace sluice::testing
