// Writes a small random Hugging Face checkpoint of the DeepSeek-V3.2 architecture: config.json, safetensors
// shards with an index, and on request a tokenizer. What it stores is returned as plain floats to compare
// with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model_config.h"
#include "support/random_tensors.h"

namespace sluice::testing {

/// How the large linear maps are stored; what published checkpoints leave unquantized stays BF16.
enum class TinyFormat { kF32, kBf16, kFp8Blocks, kModelOptNvfp4 };

/// A tensor as the file holds it. dtype is the header's text: "F32", "BF16", "F8_E4M3", "U8".
struct StoredTensor {
  std::string dtype;
  std::vector<int64_t> shape;  // outermost first
  std::vector<std::byte> bytes;
};
using StoredTensors = std::map<std::string, StoredTensor>;

/// What the stored numbers mean.
struct TinyTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using TinyTensors = std::map<std::string, TinyTensor>;

StoredTensor store_f32(std::vector<int64_t> shape, const std::vector<float>& values);
StoredTensor store_bf16(std::vector<int64_t> shape, const std::vector<float>& values);

/// Some 0.5 M parameters: d_model 192, 3 layers of which 1 dense, 8 experts in 4 groups, index top-k 8.
ModelConfig tiny_config();

struct TinyCheckpointOptions {
  ModelConfig config = tiny_config();
  TinyFormat format = TinyFormat::kBf16;
  bool tokenizer = false;        // needs a vocabulary of at least kTinyTokens
  bool rope_parameters = false;  // transformers 5's spelling
  int shards = 2;
  std::function<void(nlohmann::json& config)> edit_config;  // before it is written
  std::function<void(StoredTensors& tensors)> edit_tensors;
};

/// The text of config.json that says what `config` says.
nlohmann::json tiny_config_json(const ModelConfig& config, bool rope_parameters);

/// Writes into `directory`, which must exist. Returns every weight under its checkpoint name, dequantized;
/// scales of quantized weights are not in it.
TinyTensors write_tiny_checkpoint(const std::filesystem::path& directory,
                                  const TinyCheckpointOptions& options, Random& random);

/// One safetensors file.
void write_safetensors(const std::filesystem::path& path, const StoredTensors& tensors);

}  // namespace sluice::testing
