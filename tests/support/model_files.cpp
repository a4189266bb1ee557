// Writes and converts the checkpoint.
#include "support/model_files.h"

#include <fstream>

#include "engine/convert/convert.h"
#include "support/tiny_checkpoint.h"

namespace sluice::testing {

ModelFiles::ModelFiles(Text text, Random& random) {
  std::filesystem::create_directory(checkpoint());
  TinyCheckpointOptions tiny;
  tiny.tokenizer = text == Text::kWithTokenizer;
  write_tiny_checkpoint(checkpoint(), tiny, random);
  ConvertOptions options;
  options.dtype = quant::DType::kBF16;
  options.name = "tiny";
  convert_checkpoint(checkpoint(), model(), options);
}

std::string ModelFiles::write(const std::string& name, const std::string& content) const {
  std::ofstream(path(name), std::ios::binary) << content;
  return path(name);
}

}  // namespace sluice::testing
