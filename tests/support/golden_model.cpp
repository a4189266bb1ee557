#include "support/golden_model.h"

#include <cstdlib>
#include <cstring>

#include "engine/convert/convert.h"
#include "support/places.h"
#include "support/temporary_directory.h"

namespace sluice::testing {

std::filesystem::path tiny_directory() {
  const char* const elsewhere = std::getenv("SLUICE_TINY_MODEL");
  const std::filesystem::path path = elsewhere != nullptr
                                         ? std::filesystem::path(elsewhere)
                                         : source_directory().parent_path() / "shared/models/tiny";
  return std::filesystem::exists(path / "config.json") ? path : std::filesystem::path();
}

const Model& golden_model() {
  // Experts are read from the file when a runtime is made, so the file stays as long as the model.
  static const TemporaryDirectory directory;
  static const Model model = [] {
    ConvertOptions options;
    options.dtype = quant::DType::kBF16;
    convert_checkpoint(tiny_directory(), directory / "tiny.gguf", options);
    return Model::load(directory / "tiny.gguf");
  }();
  return model;
}

Goldens::Goldens()
    : file_(quant::SafetensorsCheckpoint::open(tiny_directory() / "golden/logits.safetensors")) {}

std::vector<float> Goldens::floats(const std::string& name) const {
  const quant::SafetensorsTensor* tensor = file_.find(name);
  if (tensor == nullptr) {
    throw std::runtime_error("no golden " + name);
  }
  std::vector<float> values(tensor->bytes.size() / sizeof(float));
  quant::to_f32(*tensor, values);
  return values;
}

std::vector<int32_t> Goldens::ids(const std::string& name) const {
  const quant::SafetensorsTensor* tensor = file_.find(name);
  if (tensor == nullptr || tensor->dtype != quant::SafetensorsType::kI32) {
    throw std::runtime_error("no golden of ids " + name);
  }
  std::vector<int32_t> values(tensor->bytes.size() / sizeof(int32_t));
  std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  return values;
}

}  // namespace sluice::testing
