#include "engine/plan_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "engine/backends/cpu_activations.h"
#include "engine/backends/cuda_activations.h"
#include "engine/backends/device_layout.h"
#include "engine/backends/gpu.h"
#include "engine/backends/gpu_cache_layout.h"
#include "engine/backends/gpu_working_memory.h"
#include "offload/plan.h"
#include "offload/staging_ring.h"
#include "quant/base/error.h"
#include "quant/panel.h"

namespace sluice {
namespace {

using offload::PlanLayer;
using offload::PlanModel;
using offload::PlannedBytes;
using offload::PlanWork;
using quant::Tensor;

// Kernels of a token in a layer, and those that scores and selection add (cuda_attention.cpp, cuda_ffn.cpp);
// some of the latter take as long as several of the others (docs/cuda_attention.md).
constexpr int64_t kLayerKernels = 20;
constexpr int64_t kRouterKernels = 4;
constexpr int64_t kSharedKernels = 3;
constexpr int64_t kExpertKernels = 3;
constexpr int64_t kHeadKernels = 3;
constexpr int64_t kSelectionKernels = 10;
// A thread's stack and what libraries take of RAM. Chosen, generously.
constexpr int64_t kProgramBytes = int64_t{512} << 20;
static_assert(kMostBatch == offload::kMostPassTokens, "the plan chooses passes as a GPU's runtime does");

/// "blk.7.attn_q_a.weight": 7 and "attn_q_a.weight"; other names have no layer.
struct TensorPlace {
  std::optional<int64_t> layer;
  std::string_view name;
};

TensorPlace place_of(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  if (!name.starts_with(kPrefix)) {
    return {{}, name};
  }
  const std::string_view rest = name.substr(kPrefix.size());
  int64_t layer = 0;
  const auto [end, failure] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  if (failure != std::errc() || end == rest.data() + rest.size() || *end != '.') {
    return {{}, name};
  }
  return {layer, rest.substr(static_cast<size_t>(end - rest.data()) + 1)};
}

int64_t panel_bytes(quant::DType dtype, int64_t rows, int64_t cols) {
  return quant::PanelView{.layout = quant::panel_layout(dtype, cols), .rows = rows}.bytes();
}

/// A tensor as its matrices: one, or one for each head.
struct Sizes {
  int64_t gpu = 0;
  int64_t ram = 0;
  double operations = 0;
};

/// What CudaWeights and PanelWeights make of a tensor that all tokens share.
Sizes sizes_of(const Tensor& tensor) {
  if (tensor.n_dims == 1) {
    return {.gpu = DeviceLayout::aligned(tensor.ne[0] * 4), .ram = 0, .operations = 0};
  }
  const int64_t bytes = tensor.ne[2] * panel_bytes(tensor.dtype, tensor.ne[1], tensor.ne[0]);
  return {.gpu = DeviceLayout::aligned(bytes),
          .ram = tensor.dtype == quant::DType::kF32 ? 0 : bytes,
          .operations = 2.0 * static_cast<double>(tensor.elements())};
}

bool is_scale(std::string_view name) {
  return name.ends_with(".scale") || name.ends_with(".input_scale");
}

bool is_experts(std::string_view name) {
  return name.find("_exps.") != std::string_view::npos;
}

class Counter {
 public:
  Counter(const ModelConfig& config, PlanModel& model) : config_(config), model_(model) {
    model.layers.resize(static_cast<size_t>(config.layers));
  }

  void add(const Tensor& tensor) {
    const TensorPlace place = place_of(tensor.name);
    if (!place.layer.has_value()) {
      add_end(tensor);
    } else if (*place.layer >= 0 && *place.layer < config_.layers) {
      PlanLayer& layer = model_.layers[static_cast<size_t>(*place.layer)];
      is_experts(place.name) ? add_experts(tensor, place.name, layer) : add_shared(tensor, place.name, layer);
    }
  }

  void finish(std::string_view source) {
    if (!has_embedding_) {
      throw Error(source, "a tensor token_embd.weight", "none");
    }
    if (!has_head_) {  // tied to the embedding
      const Sizes table = std::exchange(embedding_, {});
      model_.ends.gpu_embedding = 0;
      add_head(table);
    }
    for (int64_t i = 0; i < config_.layers; ++i) {
      finish_layer(i, source);
    }
  }

 private:
  void add_end(const Tensor& tensor) {
    if (tensor.name == "token_embd.weight") {
      has_embedding_ = true;
      embedding_ = sizes_of(tensor);
      model_.ends.gpu_embedding = embedding_.gpu;
    } else if (tensor.name == "output.weight") {
      has_head_ = true;
      add_head(sizes_of(tensor));
    } else if (tensor.name == "output_norm.weight") {
      add_head(sizes_of(tensor));
    }
  }

  void add_head(const Sizes& sizes) {
    model_.ends.gpu_head += sizes.gpu;
    model_.ends.ram_head += sizes.ram;
    model_.ends.head_operations += sizes.operations;
  }

  static void add_shared(const Tensor& tensor, std::string_view name, PlanLayer& layer) {
    if (is_scale(name)) {
      return;  // a factor of its matrix
    }
    const Sizes sizes = sizes_of(tensor);
    layer.gpu_weights += sizes.gpu;
    layer.ram_weights += sizes.ram;
    layer.weight_operations += sizes.operations;
    layer.beside_weights += name.find("_shexp.") != std::string_view::npos ? sizes.gpu : 0;
  }

  void add_experts(const Tensor& tensor, std::string_view name, PlanLayer& layer) {
    const bool fused = name.starts_with("ffn_gate_up_exps");
    const int64_t parts = fused ? 2 : 1;
    if (is_scale(name)) {
      layer.gpu_experts +=
          name.ends_with(".input_scale") ? 0 : parts * DeviceLayout::aligned(config_.router.experts * 4);
      return;
    }
    const int64_t experts = tensor.ne[2];
    const int64_t bytes = experts * panel_bytes(tensor.dtype, tensor.ne[1] / parts, tensor.ne[0]);
    model_.streams &= quant::dtype_info(tensor.dtype).elements_per_block > 1;
    layer.experts = experts;
    layer.ram_experts += parts * bytes;
    layer.gpu_experts += parts * DeviceLayout::aligned(bytes);
    layer.expert_operations += 2.0 * static_cast<double>(tensor.ne[0] * tensor.ne[1]) *
                               static_cast<double>(config_.router.experts_used);
  }

  void finish_layer(int64_t index, std::string_view source) {
    PlanLayer& layer = model_.layers[static_cast<size_t>(index)];
    const bool wants_experts = !config_.is_dense_layer(index);
    if (layer.gpu_weights == 0 || (layer.experts > 0) != wants_experts) {
      throw Error(fmt::format("{}: tensors blk.{}.*", source, index),
                  wants_experts ? "weights and routed experts" : "weights of a dense layer", "others");
    }
    layer.kernels = kLayerKernels + kSharedKernels + (wants_experts ? kRouterKernels : 0);
    layer.beside_kernels = wants_experts ? kSharedKernels : 0;
    layer.expert_kernels = wants_experts ? kExpertKernels : 0;
  }

  const ModelConfig& config_;
  PlanModel& model_;
  Sizes embedding_;
  bool has_embedding_ = false;
  bool has_head_ = false;
};

offload::PlanMemory memory_of(const ModelConfig& c, const PlanInputOptions& options) {
  const GpuCacheLayout row = gpu_cache_layout(c, 256, options.cache_type);  // 256 rows: no byte of rounding
  const bool sparse = options.attention == AttentionMode::kSparse && c.has_indexer;
  const bool int8 = has_int8_keys(options.cache_type);
  const double products = int8 ? 1 : 2;  // a query is two bf16
  return {.scanned_bytes = (row.index_keys + row.index_scales) / 256,
          .scanned_operations = products * 2.0 * static_cast<double>(c.index_heads * c.d_index),
          .scanned_int8 = int8,
          .scan_kernels = kSelectionKernels,
          .attended_bytes = row.latents / 256,
          .attended_operations = 2.0 * static_cast<double>(c.heads * (c.d_cache() + c.d_latent)),
          .most_attended = sparse ? c.index_top_k : c.context_length};
}

std::vector<PlannedBytes> cache_parts(const ModelConfig& config, int64_t layers, int64_t context,
                                      CacheType type) {
  const GpuCacheLayout layout = gpu_cache_layout(config, context, type);
  return {{"cache: latents", layers * layout.latents},
          {"cache: index keys", layers * (layout.index_keys + layout.index_scales)}};
}

RuntimeOptions runtime_options(const PlanInputOptions& options, const PlanWork& work) {
  RuntimeOptions runtime;
  runtime.max_batch = work.pass_tokens;
  runtime.tile = work.tile_tokens;
  runtime.activations = options.activations;
  runtime.prefill = work.streams ? Prefill::kAuto : Prefill::kCpu;
  if (work.gpu_has_experts) {
    runtime.gpu_expert_layers = {0};  // which ones does not matter
  }
  return runtime;
}

std::vector<PlannedBytes> gpu_working_parts(const ModelConfig& config, const PlanInputOptions& options,
                                            const PlanWork& work) {
  const GpuWorkingMemory memory =
      gpu_working_memory(config, runtime_options(options, work), work.multiprocessors);
  return {{"working: activations", memory.activations},
          {"working: experts of a pass", memory.pass_experts},
          {"working: experts", memory.experts + memory.handover},
          {"working: products", memory.products},
          {"cuBLAS", memory.libraries}};
}

/// The rows of the experts' team: int8 of a token and of its hidden vectors, and float sums.
int64_t team_bytes(const ModelConfig& c, int64_t tokens) {
  const int64_t int8 = tokens * (c.d_model + c.router.experts_used * c.d_expert);
  return int8 + int8 / 32 * 4 + int8 / 16 * 4;  // scales and terms of offload::Int8Rows
}

std::vector<PlannedBytes> ram_working_parts(const ModelConfig& c, const PlanWork& work,
                                            bool computes_layers) {
  const int64_t n = computes_layers
                        ? work.pass_tokens
                        : most_cpu_tokens({.max_batch = work.pass_tokens, .tile = work.tile_tokens});
  std::vector<PlannedBytes> parts{{"working: experts", team_bytes(c, n)}};
  if (work.multiprocessors > 0) {  // rows there, and two sums back
    parts.push_back({"working: hand-over", n * (3 * c.d_model * 4 + c.router.experts_used * 8 + 12)});
  }
  if (computes_layers) {
    parts.push_back({"working: activations", CpuActivations::bytes_needed(c, n)});
  }
  parts.push_back({"program", kProgramBytes + c.vocab_size * 4});
  return parts;
}

}  // namespace

PlanModel plan_model(const ModelConfig& config, std::span<const Tensor> tensors,
                     const PlanInputOptions& options, std::string_view source) {
  PlanModel model{.name = config.name,
                  .layers = {},
                  .ends = {.head_kernels = kHeadKernels},
                  .memory = memory_of(config, options),
                  .experts_used = config.router.experts_used,
                  .context = config.context_length,
                  .gpu_context = cuda_context(config),
                  .residual_bytes = config.d_model * 4,
                  .streams = options.streams && options.activations == Activations::kInt8,
                  .staging_bytes = 0,
                  .gpu_cache = {},
                  .ram_cache = {},
                  .gpu_working = {},
                  .ram_working = {}};
  Counter counter(config, model);
  for (const Tensor& tensor : tensors) {
    counter.add(tensor);
  }
  counter.finish(source);
  for (const PlanLayer& layer : model.layers) {
    const int64_t expert = layer.experts > 0 ? layer.ram_experts / layer.experts : 0;
    model.staging_bytes =
        std::max(model.staging_bytes, offload::kLeastStagedExperts * DeviceLayout::aligned(expert));
  }
  const auto cache = [config, type = options.cache_type](int64_t layers, int64_t context) {
    return cache_parts(config, layers, context, type);
  };
  model.gpu_cache = cache;
  model.ram_cache = cache;
  model.gpu_working = [config, options](const PlanWork& work) {
    return gpu_working_parts(config, options, work);
  };
  model.ram_working = [config](const PlanWork& work, bool computes_layers) {
    return ram_working_parts(config, work, computes_layers);
  };
  return model;
}

int64_t shared_ram_bytes(const PlanModel& model) {
  int64_t bytes = model.ends.ram_head;
  for (const PlanLayer& layer : model.layers) {
    bytes += layer.ram_weights;
  }
  return bytes;
}

int64_t shared_gpu_bytes(const PlanModel& model) {
  int64_t bytes = model.ends.gpu_embedding + model.ends.gpu_head;
  for (const PlanLayer& layer : model.layers) {
    bytes += layer.gpu_weights;
  }
  return bytes;
}

}  // namespace sluice
