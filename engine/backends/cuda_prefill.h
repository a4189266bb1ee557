// The routed experts of layers whose experts are in memory, for passes of more than one token: the busy ones
// are copied to the GPU and computed there, the others by the CPU at the same time. A cost model divides them
// and learns from what layers took (offload/batch_split.h).
//
//   copy     ... layer's experts | those of the next layer that are sure to be needed ...
//   compute  norm, router | routes to the host | shared expert | CPU's rows | slot, slot, slot | CPU's sum
//   host                    divides, puts the rest into both streams | the CPU's experts
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <vector>

#include "engine/backends/backend.h"
#include "engine/backends/cuda_cpu_share.h"
#include "engine/backends/cuda_expert_stream.h"
#include "engine/backends/cuda_pass_experts.h"
#include "engine/runtime.h"
#include "kernels_cuda/base/stream.h"
#include "offload/batch_split.h"

namespace sluice {

struct PrefillShape {
  PassExpertShape experts;
  StagingShape staging;
  int64_t cpu_rows = 0;  // tokens that the CPU is given at most beside the stream
  Prefill mode = Prefill::kAuto;
};

/// Layers one after the other: when `experts` have all of the pass's rows and choices send_routes(), run(),
/// and finish() if run() left something.
class CudaPrefill {
 public:
  /// References are kept. `experts` are of the shape's. Takes the ring's memory of a GPU; throws Error when
  /// it cannot be had.
  CudaPrefill(const offload::ExpertWeights& weights, const CudaPinnedStore& store, const PrefillShape& shape,
              CudaPassExperts& experts, offload::Workers& workers);

  /// Whether a pass of so many tokens is better done here than by the CPU alone.
  [[nodiscard]] bool is_for(int64_t n_tokens) const;

  /// CudaPassExperts::send_routes() of a layer that comes here.
  void send_routes(int64_t n_tokens, cudaStream_t stream);

  /// Before the first layer of a pass, `layer`, that comes here.
  void begin_pass(int64_t layer, int64_t n_tokens);

  struct Layer {
    int64_t layer = 0;
    int64_t next = -1;  // the next one that comes here in this pass, or -1
    int64_t n_tokens = 0;
  };
  /// Waits for the choices and puts into the stream what the GPU computes: x [n_tokens, d_model] += the
  /// streamed experts' outputs. Returns what is left to the CPU; nothing when `stop` was requested, and then
  /// the pass must be given up. Throws Error when either stream failed.
  [[nodiscard]] std::optional<Backend::Routed> run(const Layer& layer, float* x, const std::stop_token& stop,
                                                   cudaStream_t stream);
  /// After the additions to what run() left: x += those.
  void finish(float* x, cudaStream_t stream);

  /// Ends what is under way, errors and all; `stream` is idle then.
  void give_up(cudaStream_t stream);

  /// Of all layers so far whose copies are done.
  [[nodiscard]] CudaExpertStream::Copied copied() { return stream_.copied(); }

 private:
  using Clock = std::chrono::steady_clock;
  [[nodiscard]] const cuda::Event& routed(int64_t layers_ago) const {
    return routed_[(routed_layers_ + 1 + layers_ago) % 2];
  }
  void learn();
  /// Which experts are the CPU's ([experts]) and, ascending, which are to be copied.
  std::vector<int32_t> divide(int64_t layer, const offload::Routes& routes,
                              std::span<const ExpertGroup> ahead);
  void limit_cpu_rows(int64_t n_tokens);
  [[nodiscard]] CudaPassExperts::Scales scales(int64_t layer, std::span<const ExpertGroup> slots) const;
  [[nodiscard]] std::vector<int32_t> sure_of_next(int64_t n_tokens) const;

  const offload::ExpertWeights& weights_;
  PrefillShape shape_;
  CudaPassExperts& experts_;
  CudaExpertStream stream_;
  CudaCpuShare cpu_;
  cuda::Event routed_[2]{cuda::Event(cuda::EventKind::kTiming), cuda::Event(cuda::EventKind::kTiming)};
  int64_t routed_layers_ = 0;  // they take turns with those
  cuda::Event computed_{cuda::EventKind::kTiming};
  offload::BatchSplit split_;
  offload::SplitLearner learner_;
  std::vector<int64_t> tokens_;   // [experts]
  std::vector<uint8_t> is_here_;  // [experts]: its copy was begun before the choices were known
  std::vector<uint8_t> is_cpus_;  // [experts]
  offload::SplitWork work_;       // of the last layer, until it is learnt from
  offload::SplitTimes times_;
  bool measured_ = false;
  Clock::time_point known_;  // when the choices were
};

}  // namespace sluice
