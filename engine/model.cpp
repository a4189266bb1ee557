#include "engine/model.h"

#include <map>
#include <string_view>
#include <utility>

#include "quant/base/error.h"

namespace sluice {
namespace {

// FNV-1a: short, and the fingerprint only has to tell models apart, not to resist an attacker.
class Fnv1a {
 public:
  void add(std::string_view text) {
    for (const char c : text) {
      hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
    }
  }
  void add(int64_t number) { add(std::to_string(number) + ";"); }
  [[nodiscard]] uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xCBF29CE484222325ULL;
};

}  // namespace

Model::Model(quant::GgufFile file, std::unique_ptr<const offload::ExpertSource> experts, ModelConfig config,
             ModelWeights weights, std::unique_ptr<Tokenizer> tokenizer)
    : file_(std::move(file)),
      experts_(std::move(experts)),
      config_(std::move(config)),
      weights_(std::move(weights)),
      tokenizer_(std::move(tokenizer)) {}

Model Model::load(const std::filesystem::path& path) {
  return load(quant::GgufFile::open(path));
}

Model Model::load(quant::GgufFile file, std::unique_ptr<const offload::ExpertSource> experts) {
  const std::string source = file.path().string();
  ModelConfig config = config_from_gguf(file.metadata());
  ModelWeights weights = bind_weights(file, config);
  std::unique_ptr<Tokenizer> tokenizer;
  if (sluice::has_tokenizer(file.metadata())) {
    tokenizer = std::make_unique<Tokenizer>(tokenizer_from_gguf(file.metadata()), source);
    if (tokenizer->size() != config.vocab_size) {
      throw Error(source + ": tokenizer.ggml.tokens", std::to_string(config.vocab_size) + " tokens",
                  std::to_string(tokenizer->size()));
    }
  }
  return {std::move(file), std::move(experts), std::move(config), std::move(weights), std::move(tokenizer)};
}

const Tokenizer& Model::tokenizer() const {
  if (tokenizer_ == nullptr) {
    throw Error(path().string(), "a tokenizer (tokenizer.ggml.* keys), which text needs",
                "none; `sluice logits --ids` works without one");
  }
  return *tokenizer_;
}

int64_t Model::parameters() const {
  int64_t total = 0;
  for (const quant::Tensor& tensor : file_.tensors()) {
    total += tensor.elements();
  }
  return total;
}

int64_t Model::tensor_bytes() const {
  int64_t total = 0;
  for (const quant::Tensor& tensor : file_.tensors()) {
    total += tensor.data_bytes();
  }
  return total;
}

std::string Model::type_name() const {
  std::map<quant::DType, int64_t> bytes;
  for (const quant::Tensor& tensor : file_.tensors()) {
    bytes[tensor.dtype] += tensor.data_bytes();
  }
  auto largest = bytes.begin();
  for (auto it = bytes.begin(); it != bytes.end(); ++it) {
    if (it->second > largest->second) {
      largest = it;
    }
  }
  return std::string(quant::dtype_info(largest->first).name);
}

uint64_t Model::fingerprint() const {
  Fnv1a hash;
  hash.add(config_.name);
  for (const quant::Tensor& tensor : file_.tensors()) {
    hash.add(tensor.name);
    hash.add(static_cast<int64_t>(tensor.dtype));
    for (const int64_t n : tensor.ne) {
      hash.add(n);
    }
  }
  return hash.value();
}

}  // namespace sluice
