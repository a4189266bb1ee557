// Tensor by tensor comparison.
#include "support/compare_gguf.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quant/block_codec.h"

namespace sluice::testing {

std::vector<float> decode_tensor(const quant::GgufFile& file, const quant::Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  quant::dequantize_row(tensor.dtype, tensor.bytes, values);
  const std::string name = tensor.name.substr(0, tensor.name.rfind('.')) + ".scale";
  if (const quant::Tensor* scale = file.find(name); scale != nullptr && scale->name != tensor.name) {
    const std::vector<float> scales = decode_tensor(file, *scale);
    const size_t slice = values.size() / scales.size();
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] *= scales[i / slice];
    }
  }
  return values;
}

double relative_rms(const std::vector<float>& found, const std::vector<float>& wanted) {
  double error = 0.0;
  double power = 0.0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double difference = static_cast<double>(found[i]) - static_cast<double>(wanted[i]);
    error += difference * difference;
    power += static_cast<double>(wanted[i]) * static_cast<double>(wanted[i]);
  }
  return error == 0.0 ? 0.0 : std::sqrt(error / power);
}

void expect_holds(const quant::GgufFile& file, const std::map<std::string, ExpectedTensor>& expected,
                  double tolerance) {
  size_t companions = 0;
  for (const quant::Tensor& tensor : file.tensors()) {
    companions += tensor.name.ends_with(".scale") ? size_t{1} : size_t{0};
  }
  EXPECT_EQ(file.tensors().size() - companions, expected.size());
  for (const auto& [name, wanted] : expected) {
    SCOPED_TRACE(name);
    const quant::Tensor* tensor = file.find(name);
    ASSERT_NE(tensor, nullptr);
    const std::vector<int64_t> ne(tensor->ne.begin(), tensor->ne.begin() + tensor->n_dims);
    ASSERT_EQ(ne, wanted.ne);
    if (wanted.always_f32) {
      EXPECT_EQ(tensor->dtype, quant::DType::kF32);
    }
    const std::vector<float> found = decode_tensor(file, *tensor);
    if (tolerance == 0.0 || wanted.always_f32) {
      EXPECT_TRUE(found == wanted.values) << "relative RMS error " << relative_rms(found, wanted.values);
    } else {
      EXPECT_LT(relative_rms(found, wanted.values), tolerance) << quant::dtype_info(tensor->dtype).name;
    }
  }
}

}  // namespace sluice::testing
