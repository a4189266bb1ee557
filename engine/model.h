// A model opened for use: configuration, weights and tokenizer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "engine/model_config.h"
#include "engine/model_weights.h"
#include "engine/text/tokenizer.h"
#include "offload/expert_source.h"
#include "quant/gguf_reader.h"

namespace sluice {

/// Owns the mapped file, or the memory that holds what a file would; everything else points into it.
/// Move-only.
class Model {
 public:
  /// Throws Error naming the file and what is wrong with it.
  static Model load(const std::filesystem::path& path);
  /// The same of an opened file. `experts`, when there is one, makes the bytes of the routed experts.
  static Model load(quant::GgufFile file, std::unique_ptr<const offload::ExpertSource> experts = nullptr);

  [[nodiscard]] const std::filesystem::path& path() const { return file_.path(); }
  [[nodiscard]] const quant::GgufFile& file() const { return file_; }
  /// Null for a model file: its experts lie in file(). Else these have the experts, and the tensors of that
  /// name in file() may have no bytes.
  [[nodiscard]] const offload::ExpertSource* expert_source() const { return experts_.get(); }
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] const ModelWeights& weights() const { return weights_; }
  [[nodiscard]] bool has_tokenizer() const { return tokenizer_ != nullptr; }
  /// Throws Error saying that this file holds no tokenizer when there is none.
  [[nodiscard]] const Tokenizer& tokenizer() const;

  [[nodiscard]] int64_t parameters() const;  // elements of all tensors
  [[nodiscard]] int64_t tensor_bytes() const;
  /// Dominant weight type by bytes, for titles: "NVFP4".
  [[nodiscard]] std::string type_name() const;
  /// 64-bit hash of configuration and tensor table (names, types, shapes): names a model in saved sessions.
  [[nodiscard]] uint64_t fingerprint() const;

 private:
  Model(quant::GgufFile file, std::unique_ptr<const offload::ExpertSource> experts, ModelConfig config,
        ModelWeights weights, std::unique_ptr<Tokenizer> tokenizer);

  quant::GgufFile file_;
  std::unique_ptr<const offload::ExpertSource> experts_;
  ModelConfig config_;
  ModelWeights weights_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace sluice
