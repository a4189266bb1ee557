// A model made ready to compute: workers, backend, experts and working memory for a batch; the forward pass
// over them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>

#include "engine/caches.h"
#include "engine/forward_observer.h"
#include "engine/model.h"
#include "kernels_cpu/isa.h"
#include "offload/load_progress.h"

namespace sluice {

enum class AttentionMode { kSparse, kDense };
/// "sparse", "dense".
std::string_view attention_mode_name(AttentionMode mode);

/// What quantized weights are multiplied with on the CPU: activations rounded to int8 per block of 32, or as
/// they are. Float weights always meet float32.
enum class Activations { kInt8, kFloat32 };

/// Where the routed experts' weights are: in memory of their own, as panels, or in the mapped file, from
/// which panels are made each time. Results are the same.
enum class ExpertMemory { kLoaded, kMapped };

/// On machines with several NUMA nodes: experts divided among them; in memory of any node; page by page on
/// all in turn.
enum class NumaMode { kAuto, kOff, kInterleave };

struct RuntimeOptions {
  int64_t threads = 0;      // 0 = all physical cores
  int64_t max_batch = 512;  // tokens per forward pass (-ub)
  AttentionMode attention = AttentionMode::kSparse;
  Activations activations = Activations::kInt8;        // --exact: kFloat32
  ExpertMemory expert_memory = ExpertMemory::kLoaded;  // --mmap: kMapped
  NumaMode numa = NumaMode::kAuto;
  bool check_tensors = false;  // infinity or NaN in any weight is an Error
  /// Called while experts are loaded, from any thread, by one at a time. Only until the constructor returns.
  std::function<void(const offload::LoadProgress&)> load_progress = {};
  std::stop_token load_stop = {};  // asked all the time until the constructor returns
};

/// Which logits a forward pass computes.
enum class Logits { kNone, kLast, kAll };

struct ForwardRequest {
  std::span<const int32_t> ids;  // 1 .. max_batch tokens
  int64_t first_position = 0;    // of ids[0]; the cache holds all earlier ones
  Logits logits = Logits::kLast;
  ForwardObserver* observer = nullptr;
  std::stop_token stop = {};  // asked once per layer
};

/// What forward passes have taken, by kind of layer.
struct LayerTimes {
  int64_t dense_ns = 0;  // all layers with a dense FFN
  int64_t moe_ns = 0;    // all MoE layers

  LayerTimes operator-(const LayerTimes& other) const {
    return {.dense_ns = dense_ns - other.dense_ns, .moe_ns = moe_ns - other.moe_ns};
  }
  LayerTimes operator+(const LayerTimes& other) const {
    return {.dense_ns = dense_ns + other.dense_ns, .moe_ns = moe_ns + other.moe_ns};
  }
};

/// With `threads` resolved. Throws Error for options that a runtime of the model cannot satisfy.
RuntimeOptions checked_options(const Model& model, RuntimeOptions options);

class LoadedWeights;

class Runtime {
 public:
  /// Loads the weights (loaded_weights.h). Keeps a reference to `model`. Throws Error for options that it
  /// cannot satisfy (sparse attention on a model without an indexer is an Error, never a silent change to
  /// dense), and LoadStopped (load_stopped.h) when `load_stop` was requested before it is done.
  Runtime(const Model& model, const RuntimeOptions& options);
  /// Computes with weights that are loaded already, for options that they suit (asserted). Keeps a reference
  /// to `weights`.
  Runtime(const LoadedWeights& weights, const RuntimeOptions& options);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  [[nodiscard]] const Model& model() const { return model_; }
  [[nodiscard]] const RuntimeOptions& options() const { return options_; }  // threads resolved
  /// One line on what runs: "CPU, 16 threads, avx512vnni kernels with int8
  /// activations, 371.2 GB of experts on 2 NUMA nodes in huge pages, sparse attention (top 2048 ...)".
  [[nodiscard]] std::string description() const;

  /// Computes the tokens, writes their cache rows, and returns logits: none, one row, or a row per token,
  /// each [vocab_size]; valid until the next call. Returns false in `completed` when it was stopped: then
  /// nothing is valid but cache rows before first_position. Throws Error when an id is outside the vocabulary
  /// or a position outside the cache.
  struct Result {
    bool completed = true;
    MatrixView<const float> logits;
  };
  Result forward(const ForwardRequest& request, KvCache& cache);

  /// Of all forward passes so far; what they took beyond it is the embedding and the head.
  [[nodiscard]] const LayerTimes& layer_times() const { return layer_times_; }

 private:
  Result run_layers(const ForwardRequest& request, KvCache& cache);
  MatrixView<const float> head(const ForwardRequest& request, MatrixView<float> x);

  struct Parts;
  const Model& model_;
  RuntimeOptions options_;
  std::unique_ptr<Parts> parts_;
  LayerTimes layer_times_;
};

}  // namespace sluice
