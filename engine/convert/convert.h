// Hugging Face checkpoint (bf16, FP8 with block scales, or ModelOpt NVFP4) to a GGUF file that llama.cpp's
// strict loader takes as well: names, shapes, types and order of docs/formats.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "quant/dtype.h"

namespace sluice {

/// One rule of `--tensor-type REGEX=TYPE`; the first that matches a tensor's GGUF name wins.
struct TypeRule {
  std::string pattern;
  quant::DType dtype;
};

/// Called after every tensor, and several times a second while a large one is written; return false to stop
/// (the partial file is removed and Error thrown).
using ConvertProgress =
    std::function<bool(int64_t bytes_done, int64_t bytes_total, const std::string& tensor)>;

struct ConvertOptions {
  quant::DType dtype = quant::DType::kQ8_0;  // for every tensor that may be quantized
  std::vector<TypeRule> rules;
  std::string name;     // general.name; empty = the directory's name
  int64_t threads = 0;  // that encode; 0 = all physical cores. The file is the same whatever their number
  ConvertProgress progress;
};

struct ConvertReport {
  int64_t tensors = 0;
  int64_t bytes = 0;
  bool has_tokenizer = false;
  std::vector<std::string> fallbacks;  // "blk.0.attn_k_b.weight: Q4_K wanted, Q8_0 written (128 columns)"
  std::vector<std::string> ignored;    // checkpoint tensors without a place in the file
};

/// Throws Error; leaves no partial file.
ConvertReport convert_checkpoint(const std::filesystem::path& directory, const std::filesystem::path& output,
                                 const ConvertOptions& options);

/// GGUF to GGUF with other types. Same rules and report.
ConvertReport quantize_gguf(const std::filesystem::path& input, const std::filesystem::path& output,
                            const ConvertOptions& options);

}  // namespace sluice
