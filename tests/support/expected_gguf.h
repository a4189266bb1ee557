// What a GGUF file of a checkpoint must hold, built from the checkpoint's plain values and the table of the
// format's page: the independent side of the converter's tests.
#pragma once

#include <map>
#include <string>

#include "engine/model_config.h"
#include "support/tiny_checkpoint.h"

namespace sluice::testing {

struct ExpectedTensor {
  std::vector<int64_t> ne;  // ggml order
  bool always_f32 = false;  // never quantized
  std::vector<float> values;
};

/// By GGUF name.
std::map<std::string, ExpectedTensor> expected_gguf(const ModelConfig& config, const TinyTensors& checkpoint);

}  // namespace sluice::testing
