// A model made ready to compute: workers, backend, experts and working memory for a batch; the forward pass
// over them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "engine/caches.h"
#include "engine/forward_observer.h"
#include "engine/logit_candidates.h"
#include "engine/model.h"
#include "kernels_cpu/isa.h"
#include "offload/load_progress.h"

namespace sluice {

enum class AttentionMode { kSparse, kDense };
/// "sparse", "dense".
std::string_view attention_mode_name(AttentionMode mode);

/// What weights are multiplied with. kInt8: on the CPU quantized weights meet activations rounded to int8 per
/// block of 32, float weights float32; on a GPU one to eight tokens float32, more of them bf16 but for the
/// router. kFloat32: nothing is rounded.
enum class Activations { kInt8, kFloat32 };

/// Where everything but the routed experts is computed, with first_gpu_layer. kAuto: on the GPU where there
/// is one that can.
enum class Device { kAuto, kCpu, kGpu };

/// With a GPU: who computes the routed experts that are in memory, for passes of more than one token. kCpu:
/// the CPU, where they lie. kStream: the GPU, to which those that tokens chose are copied. kAuto: both, as is
/// predicted and then measured to be fastest; the CPU where nothing can be streamed.
enum class Prefill { kAuto, kCpu, kStream };
/// "auto", "cpu", "stream".
std::string_view prefill_name(Prefill prefill);

/// Where the routed experts' weights are: in memory of their own, as panels, or in the mapped file, from
/// which panels are made each time. Results are the same.
enum class ExpertMemory { kLoaded, kMapped };

/// On machines with several NUMA nodes: experts divided among them; in memory of any node; page by page on
/// all in turn.
enum class NumaMode { kAuto, kOff, kInterleave };

/// Tokens of the largest pass that is chosen without -b.
inline constexpr int64_t kMostBatch = 32768;

struct RuntimeOptions {
  int64_t threads = 0;  // 0 = all physical cores
  /// Tokens per forward pass (-b): routed experts that a GPU computes are read, or copied there, once for all
  /// of them. 0: as many as a GPU has room for, up to `most_batch`; where the CPU computes experts as many as
  /// `tile`.
  int64_t max_batch = 0;
  int64_t most_batch = kMostBatch;
  int64_t tile = 512;  // tokens that a GPU computes at a time but for routed experts (-ub)
  AttentionMode attention = AttentionMode::kSparse;
  Activations activations = Activations::kInt8;        // --exact: kFloat32
  ExpertMemory expert_memory = ExpertMemory::kLoaded;  // --mmap: kMapped
  NumaMode numa = NumaMode::kAuto;
  Device device = Device::kCpu;  // -ngl
  /// With a GPU: the layers before it, and the embedding, are the CPU's; the others, if there are any, and
  /// the head are the GPU's. 0 to the model's layers.
  int64_t first_gpu_layer = 0;
  /// MoE layers, ascending, whose routed experts are in GPU memory and computed there (-ncmoe, -ot). Only
  /// with kGpu, and of its layers.
  std::vector<int64_t> gpu_expert_layers = {};
  Prefill prefill = Prefill::kAuto;  // --prefill
  /// Bytes of GPU memory that may be in use, other programs' included (--vram-limit); 0: all.
  int64_t gpu_memory_limit = 0;
  /// GPU memory that streamed experts pass through, of three experts at least; 0: what is free.
  int64_t staging_bytes = 0;
  /// GPU memory for experts in RAM that recent tokens chose most (--expert-cache); 0: none. Only with kGpu.
  int64_t expert_cache_bytes = 0;
  /// Tokens of a cache that will be made, and its type: a GPU without room for it is refused before anything
  /// is loaded.
  int64_t planned_context = 0;
  CacheType planned_cache = CacheType::kBF16;
  bool profile = false;        // blocks of MoE layers are timed (LayerTimes::blocks)
  bool check_tensors = false;  // infinity or NaN in any weight is an Error
  /// Called while experts are loaded, from any thread, by one at a time. Only until the constructor returns.
  std::function<void(const offload::LoadProgress&)> load_progress = {};
  std::stop_token load_stop = {};  // asked all the time until the constructor returns
};

/// Which logits a forward pass computes. With kNone or kLast, no observer and several tokens the last layer
/// writes the cache rows of all of them and computes the rest for the last one alone: of the others nothing
/// depends on it.
enum class Logits { kNone, kLast, kAll };

struct ForwardRequest {
  std::span<const int32_t> ids;  // 1 .. max_batch tokens
  int64_t first_position = 0;    // of ids[0]; the cache holds all earlier ones
  Logits logits = Logits::kLast;
  /// With kLast: what is enough in place of the row, where the backend has it elsewhere.
  std::optional<CandidateRequest> candidates = {};
  ForwardObserver* observer = nullptr;
  std::stop_token stop = {};  // asked once per layer, and between experts that are streamed
  std::function<void(int64_t layers_done)> progress = {};
};

/// What a layer that hands its tokens to the experts on the CPU may take beyond the sum of its parts.
inline constexpr double kHandoverUs = 12;

/// Where the time of MoE layers goes, all of them together (RuntimeOptions::profile). With a GPU, its times
/// but for `experts_ns`, and of a divided model its layers alone.
struct BlockTimes {
  int64_t layers = 0;        // MoE layers that were computed
  int64_t attention_ns = 0;  // the attention block
  int64_t route_ns = 0;      // norm, router and, with a GPU, writing the tokens into memory
  int64_t shared_ns = 0;     // the shared expert, and routed ones that a GPU has
  int64_t experts_ns = 0;    // routed experts on the CPU
  int64_t waiting_ns = 0;    // of a GPU: for the experts' sum after the shared expert, and adding it
  int64_t copied_bytes = 0;  // of experts, streamed to the GPU
  int64_t copying_ns = 0;    // that copies took
  // Of passes of few tokens with an expert cache: experts that tokens chose, and how many of them were in it.
  int64_t cache_choices = 0;
  int64_t cache_hits = 0;

  BlockTimes operator-(const BlockTimes& other) const;
  BlockTimes operator+(const BlockTimes& other) const;
};

/// What forward passes have taken, by kind of layer. A GPU computes while the host goes on: what a layer
/// began may be waited for in the next one, but in passes of one token, which are told as the GPU took them.
/// The last layer is left out where it was computed for the last of several tokens alone (Logits).
struct LayerTimes {
  int64_t dense_ns = 0;    // all layers with a dense FFN
  int64_t moe_ns = 0;      // all MoE layers
  BlockTimes blocks = {};  // only when asked for
  int64_t passes = 0;
  int64_t dense_layers = 0;  // of all passes, that took dense_ns
  int64_t moe_layers = 0;    // of all passes, that took moe_ns

  LayerTimes operator-(const LayerTimes& other) const {
    return {.dense_ns = dense_ns - other.dense_ns,
            .moe_ns = moe_ns - other.moe_ns,
            .blocks = blocks - other.blocks,
            .passes = passes - other.passes,
            .dense_layers = dense_layers - other.dense_layers,
            .moe_layers = moe_layers - other.moe_layers};
  }
  LayerTimes operator+(const LayerTimes& other) const {
    return {.dense_ns = dense_ns + other.dense_ns,
            .moe_ns = moe_ns + other.moe_ns,
            .blocks = blocks + other.blocks,
            .passes = passes + other.passes,
            .dense_layers = dense_layers + other.dense_layers,
            .moe_layers = moe_layers + other.moe_layers};
  }
};

/// With `threads`, `device` and, without a GPU, `max_batch`, `tile` and `prefill` resolved. Throws Error for
/// options that a runtime of the model cannot satisfy.
RuntimeOptions checked_options(const Model& model, RuntimeOptions options);

class LoadedWeights;
class Backend;
struct Batch;
struct BackendSources;
/// A backend in place of what the options choose.
using MakeBackend = std::function<std::unique_ptr<Backend>(const BackendSources&)>;

class Runtime {
 public:
  /// Loads the weights (loaded_weights.h). Keeps a reference to `model`. Throws Error for options that it
  /// cannot satisfy (sparse attention on a model without an indexer is an Error, never a silent change to
  /// dense), and LoadStopped (load_stopped.h) when `load_stop` was requested before it is done.
  Runtime(const Model& model, const RuntimeOptions& options);
  /// Computes with weights that are loaded already, for options that they suit (asserted). Keeps a reference
  /// to `weights`.
  Runtime(const LoadedWeights& weights, const RuntimeOptions& options);
  /// The same with the backend that `make` returns (backends/chosen_backend.h).
  Runtime(const LoadedWeights& weights, const RuntimeOptions& options, const MakeBackend& make);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  [[nodiscard]] const Model& model() const { return model_; }
  /// With `threads`, `device`, `max_batch`, `tile`, `prefill` (kCpu where nothing can be streamed) and
  /// `staging_bytes` resolved.
  [[nodiscard]] const RuntimeOptions& options() const { return options_; }
  /// One line on what runs: "CPU, 16 threads, avx512vnni kernels with int8
  /// activations, 371.2 GB of experts on 2 NUMA nodes in huge pages, sparse attention (top 2048 ...)"; with a
  /// GPU, that and what it holds come first.
  [[nodiscard]] std::string description() const;
  /// A sentence on what works worse than it should, to be shown; empty while all is well. It may come up
  /// while a runtime is used: memory is page-locked in the background.
  [[nodiscard]] std::string notice() const;

  /// Memory for `capacity` tokens where this runtime computes attention. Throws Error naming -c/--ctx-size
  /// when there is none.
  [[nodiscard]] std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type);

  /// Computes the tokens, writes their cache rows, and returns logits: none, one row, or a row per token,
  /// each [vocab_size]; valid until the next call. Returns false in `completed` when it was stopped: then
  /// nothing is valid but cache rows before first_position. `cache` is one that make_cache gave, or a
  /// CpuCache without a GPU. Throws Error when an id is outside the vocabulary or a position outside the
  /// cache.
  struct Result {
    bool completed = true;
    MatrixView<const float> logits;
    std::optional<LogitCandidates> candidates = {};  // in place of the one row
  };
  Result forward(const ForwardRequest& request, KvCache& cache);
  /// The row [vocab_size] that the last pass gave candidates of. Valid until the next call of forward().
  std::span<const float> read_logits();

  /// Of all forward passes so far; what they took beyond it is the embedding and the head.
  [[nodiscard]] const LayerTimes& layer_times() const { return layer_times_; }

 private:
  Result run_layers(const ForwardRequest& request, KvCache& cache);
  void run_moe_layer(int64_t layer, const ForwardRequest& request, const Batch& batch, BlockTimes& times);
  Result head(const ForwardRequest& request, int64_t n_tokens);

  struct Parts;
  const Model& model_;
  RuntimeOptions options_;
  std::string unused_gpu_;  // why one that is there is not used, for description()
  std::unique_ptr<Parts> parts_;
  LayerTimes layer_times_;
};

}  // namespace sluice
