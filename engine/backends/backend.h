// What a backend computes: the model's blocks, not primitive operations (docs/architecture.md). The routed
// experts are no part of it: where they run is decided per layer and per batch (offload/expert_team.h).
#pragma once

#include <cstdint>
#include <span>

#include "engine/caches.h"
#include "engine/forward_observer.h"
#include "engine/runtime.h"
#include "offload/routes.h"
#include "quant/base/view.h"

namespace sluice {

/// The tokens of one forward pass and what they see.
struct Batch {
  std::span<const int32_t> ids;  // [n_tokens]
  int64_t first_position = 0;
  AttentionMode attention = AttentionMode::kSparse;
  KvCache* cache = nullptr;
  ForwardObserver* observer = nullptr;  // may be null

  [[nodiscard]] int64_t n_tokens() const { return static_cast<int64_t>(ids.size()); }
};

/// x is the residual stream [n_tokens, d_model], float32.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  /// x[t] = embedding of ids[t].
  virtual void embed(const Batch& batch, MatrixView<float> x) = 0;
  /// Writes the batch's cache rows, then x += Attn(RMSNorm(x)).
  virtual void attention(int64_t layer, const Batch& batch, MatrixView<float> x) = 0;
  /// x += SwiGLU(RMSNorm(x)), dense layers.
  virtual void dense_ffn(int64_t layer, MatrixView<float> x) = 0;

  struct Routed {
    MatrixView<const float> f;  // [n_tokens, d_model] = RMSNorm(x), what every expert reads
    offload::Routes routes;
  };
  /// MoE layers: norm and choice of experts. Valid until the next call.
  virtual Routed route(int64_t layer, MatrixView<const float> x) = 0;
  /// x += SwiGLU_shared(f)
  virtual void shared_expert(int64_t layer, MatrixView<const float> f, MatrixView<float> x) = 0;

  /// x <- RMSNorm(x; output_norm), in place.
  virtual void final_norm(MatrixView<float> x) = 0;
  /// logits [x.rows, vocab] = W_head x, x after the final norm.
  virtual void head(MatrixView<const float> x, MatrixView<float> logits) = 0;
};

}  // namespace sluice
