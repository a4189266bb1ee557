// The trained tiny model beside the repository, converted to a BF16 GGUF once per test program, and its
// goldens.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/model.h"
#include "quant/safetensors_reader.h"

namespace sluice::testing {

/// The folder of the tiny checkpoint, or empty when it is not there. SLUICE_TINY_MODEL names it for a program
/// that was copied to another machine.
std::filesystem::path tiny_directory();

/// The model as the converter writes it in BF16. Only when tiny_directory() is not empty.
const Model& golden_model();

/// golden/logits.safetensors: independent results, named as golden/logits.json says.
class Goldens {
 public:
  Goldens();
  [[nodiscard]] std::vector<float> floats(const std::string& name) const;
  [[nodiscard]] std::vector<int32_t> ids(const std::string& name) const;
  [[nodiscard]] bool has(const std::string& name) const { return file_.find(name) != nullptr; }

 private:
  quant::SafetensorsCheckpoint file_;
};

}  // namespace sluice::testing

/// Skips the test, saying why, when the trained model is not beside the repository.
#define SLUICE_NEEDS_TINY_MODEL()                                                     \
  if (sluice::testing::tiny_directory().empty()) {                                    \
    GTEST_SKIP() << "shared/models/tiny is not beside the source tree: not compared"; \
  }
