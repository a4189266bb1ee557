// Which tensors a GGUF file of a configuration holds, in order, with shapes, and which checkpoint tensors
// each is made of (docs/formats.md has both tables).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model_config.h"

namespace sluice::convert {

/// How the source tensors lie in the target, whose shape is {ne0, ne1[, ne2]}, ne0 contiguous.
enum class SourceLayout {
  kWhole,        // one source, as it is: [ne1, ne0], or [ne0] for a vector
  kExpertStack,  // ne2 sources of [ne1, ne0], stacked
  kKeyHeads,     // kv_b_proj: per head the first d_nope rows, transposed to [d_latent, d_nope]
  kValueHeads,   // kv_b_proj: per head the last d_value rows, [d_value, d_latent]
};

struct TensorPlan {
  std::string name;         // in the GGUF file
  std::vector<int64_t> ne;  // ggml order
  SourceLayout layout = SourceLayout::kWhole;
  bool optional = false;              // left out when the checkpoint does not have it
  std::vector<std::string> sources;   // checkpoint names
  std::vector<int64_t> source_shape;  // of each source, outermost first
};

/// Every tensor of the file: token_embd, the blocks (MTP last), output_norm, output.
std::vector<TensorPlan> plan_tensors(const ModelConfig& config);

/// False for what always stays float32: vectors, norms, biases, the router, the indexer's head weights,
/// scales.
bool may_quantize(std::string_view name, int n_dims);

/// True where readers of the format multiply a product by its `.scale` companion: attention output and all
/// FFNs.
bool has_second_scale(std::string_view name);

/// "blk.3.ffn_up.weight" to "blk.3.ffn_up.scale". `name` must end in ".weight".
std::string scale_name(std::string_view name);

}  // namespace sluice::convert
