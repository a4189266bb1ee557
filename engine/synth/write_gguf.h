// A synthetic model as a GGUF file.
#pragma once

#include <filesystem>

#include "engine/convert/convert.h"
#include "engine/synth/model_spec.h"

namespace sluice::synth {

struct WriteOptions {
  int64_t threads = 0;  // that generate; 0 = all physical cores. The file is the same whatever their number
  ConvertProgress progress;
};

/// While one piece is written the next is generated. Throws Error, leaving no partial file, when the spec
/// does not fit, the disk has no room for it or the callback asks to stop.
ConvertReport write_gguf(const ModelSpec& spec, const std::filesystem::path& output,
                         const WriteOptions& options);

}  // namespace sluice::synth
