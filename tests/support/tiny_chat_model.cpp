// Writes a checkpoint and converts it.
#include "support/tiny_chat_model.h"

#include <algorithm>
#include <string>

#include "engine/convert/convert.h"
#include "support/tiny_checkpoint.h"

namespace sluice::testing {
namespace {

constexpr uint64_t kSeed = 20;  // fixed: the tests look at behaviour, not at numbers
constexpr size_t kEndOfSentence = 1;

void silence_end_of_sentence(StoredTensors& tensors) {
  StoredTensor& output = tensors.at("lm_head.weight");
  const size_t row_bytes = output.bytes.size() / static_cast<size_t>(output.shape[0]);
  const auto row = output.bytes.begin() + static_cast<std::ptrdiff_t>(kEndOfSentence * row_bytes);
  std::fill(row, row + static_cast<std::ptrdiff_t>(row_bytes), std::byte{0});
}

enum class With { kTokenizer, kNoTokenizer };

class ModelFile {
 public:
  explicit ModelFile(With with) : path_(directory_ / "tiny.gguf") {
    TinyCheckpointOptions options;
    options.config.context_length = kTinyChatContext;
    options.tokenizer = with == With::kTokenizer;
    options.edit_tensors = silence_end_of_sentence;
    Random random(kSeed);
    const std::filesystem::path checkpoint = directory_ / "checkpoint";
    std::filesystem::create_directory(checkpoint);
    write_tiny_checkpoint(checkpoint, options, random);
    ConvertOptions convert;
    convert.dtype = quant::DType::kBF16;
    convert.name = "Tiny Test";
    convert_checkpoint(checkpoint, path_, convert);
  }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  TemporaryDirectory directory_;
  std::filesystem::path path_;
};

}  // namespace

const std::filesystem::path& tiny_chat_model() {
  static const ModelFile file(With::kTokenizer);
  return file.path();
}

const std::filesystem::path& tiny_model_without_tokenizer() {
  static const ModelFile file(With::kNoTokenizer);
  return file.path();
}

}  // namespace sluice::testing
