// A synthetic model short of its bytes: configuration, metadata, the table of tensors, and how the rows of
// each are made. File and memory are filled from the same recipe and therefore hold the same.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/model_config.h"
#include "engine/synth/model_spec.h"
#include "engine/synth/row_generator.h"
#include "quant/gguf_value.h"
#include "quant/tensor.h"

namespace sluice::synth {

/// The tensors of a model, in file order.
struct TensorTable {
  std::vector<quant::Tensor> tensors;  // without bytes
  std::vector<RowGenerator> generators;
  std::vector<std::string> fallbacks;  // "blk.0.attn_k_b.weight: Q4_K wanted, Q8_0 written (128 columns)"

  [[nodiscard]] int64_t parameters() const;
  [[nodiscard]] int64_t bytes() const;
};

/// Names, shapes and order of docs/formats.md for the spec's configuration. Routed experts have spec.type,
/// other matrices spec.dense_type; vectors, router and index head weights are F32. Matrices have mean 0 and
/// deviation 1 / sqrt(cols), norms are near 1, the router's bias near 0.
TensorTable plan_tensors(const ModelSpec& spec, const ModelConfig& config);

/// The keys of docs/formats.md with a made-up tokenizer, and `sluice.synthetic`: the spec's text.
quant::GgufMetadata make_metadata(const ModelSpec& spec, const ModelConfig& config, int64_t parameters);

/// The key that tells a synthetic file from a real one.
inline constexpr const char* kSyntheticKey = "sluice.synthetic";

}  // namespace sluice::synth
