// Small random models as files, for tests that run the program.
#pragma once

#include <filesystem>

#include "support/random_tensors.h"
#include "support/temporary_directory.h"

namespace sluice::testing {

/// A directory that holds a small random checkpoint of the DeepSeek-V3.2 architecture in checkpoint/ and,
/// converted to BF16, model.gguf. Vocabulary 320, context 256, 3 layers, top-k 8.
class ModelFiles {
 public:
  enum class Text { kWithTokenizer, kWithoutTokenizer };
  ModelFiles(Text text, Random& random);

  [[nodiscard]] std::filesystem::path checkpoint() const { return directory_ / "checkpoint"; }
  [[nodiscard]] std::string model() const { return (directory_ / "model.gguf").string(); }
  /// A path of this name beside them.
  [[nodiscard]] std::string path(const std::string& name) const { return (directory_ / name).string(); }
  /// Writes a file there and returns its path.
  [[nodiscard]] std::string write(const std::string& name, const std::string& content) const;
  [[nodiscard]] std::string listing() const { return directory_.listing(); }

 private:
  TemporaryDirectory directory_;
};

}  // namespace sluice::testing
