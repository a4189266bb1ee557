// What a backend computes: the model's blocks, not primitive operations (docs/architecture.md). The routed
// experts are the CPU team's (offload/expert_team.h) but in layers whose experts a backend has.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>

#include "engine/caches.h"
#include "engine/forward_observer.h"
#include "engine/logit_candidates.h"
#include "engine/runtime.h"
#include "offload/routes.h"
#include "quant/base/view.h"

namespace sluice {

/// The tokens of one forward pass and what they see.
struct Batch {
  std::span<const int32_t> ids;  // [n_tokens]
  int64_t first_position = 0;
  AttentionMode attention = AttentionMode::kSparse;
  KvCache* cache = nullptr;             // one that the backend made
  ForwardObserver* observer = nullptr;  // may be null
  std::stop_token stop = {};            // work that takes long may be left half done when it is requested
  int64_t first_row = 0;                // of the residual stream: a part of the pass
  bool narrows = false;                 // before the last layer, to the last token: keep_last_token()

  /// Tokens [begin, begin + count).
  [[nodiscard]] Batch part(int64_t begin, int64_t count) const {
    Batch tokens = *this;
    tokens.ids = ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    tokens.first_position += begin;
    tokens.first_row += begin;
    return tokens;
  }
  /// What the batch is after keep_last_token().
  [[nodiscard]] Batch last_token() const {
    Batch token = part(n_tokens() - 1, 1);
    token.first_row = 0;
    token.narrows = false;
    return token;
  }
  [[nodiscard]] int64_t n_tokens() const { return static_cast<int64_t>(ids.size()); }
};

/// What becomes of the tokens of an attention block.
enum class AttentionUse {
  kStore,   // their cache rows are written, and that is all
  kAttend,  // to all positions up to their own
  kSelect,  // some of them to a choice of positions
};

/// Rows of the residual stream.
struct RowRange {
  int64_t begin = 0;
  int64_t count = 0;
};

/// Keeps the residual stream x [n_tokens, d_model], float32, from embed() or resume() on, wherever it
/// computes. Calls after that are for the tokens of its batch.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  /// A cache for attention() of this backend. Throws Error naming -c/--ctx-size when there is no memory for
  /// it.
  [[nodiscard]] virtual std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type) = 0;

  /// x[t] = embedding of ids[t].
  virtual void embed(const Batch& batch) = 0;
  /// Instead of embed(), for a pass that begins behind layers that another backend computed: x [n_tokens,
  /// d_model], in host memory, is what they left.
  virtual void resume(const Batch& batch, MatrixView<const float> x) = 0;
  /// Before attention() of the last layer, when nobody asks for more than the last token's logits: writes the
  /// cache rows of the others, which are all that anything depends on, and makes the last token's row the
  /// only one of x. From here on calls are for that token alone. `batch` narrows and has more than one token.
  virtual void keep_last_token(int64_t layer, const Batch& batch) = 0;
  /// Writes the batch's cache rows, then x += Attn(RMSNorm(x)).
  virtual void attention(int64_t layer, const Batch& batch) = 0;
  /// x += SwiGLU(RMSNorm(x)), dense layers.
  virtual void dense_ffn(int64_t layer, int64_t n_tokens) = 0;

  /// In host memory, valid until the next call.
  struct Routed {
    MatrixView<const float> f;  // [n_tokens, d_model] = RMSNorm(x), what every expert reads
    offload::Routes routes;
    MatrixView<float> sum;  // [n_tokens, d_model]: what the routed experts' outputs are added to
  };
  /// MoE layers: whether the backend computes the routed experts of this pass, in routed_ffn(). Else the
  /// caller does, between route() and finish_experts().
  [[nodiscard]] virtual bool computes_experts(int64_t /*layer*/) const { return false; }
  /// x += SwiGLU_shared(f) + the routed experts' sum, f = RMSNorm(x); where computes_experts() says so. What
  /// it returns it leaves to the caller, who adds to `sum` and then calls finish_experts(); rows are of some
  /// tokens only, and ids below 0 are none of the caller's.
  virtual std::optional<Routed> routed_ffn(int64_t /*layer*/, const Batch& /*batch*/) { return {}; }
  /// MoE layers: norm and choice of experts.
  virtual Routed route(int64_t layer, int64_t n_tokens) = 0;
  /// After route() and the additions to its `sum`: x += SwiGLU_shared(f) + those. After routed_ffn():
  /// x += those.
  virtual void finish_experts(int64_t layer, int64_t n_tokens) = 0;

  /// x as it is now, in host memory: for observers. Valid until the next call.
  virtual MatrixView<const float> residual(int64_t n_tokens) = 0;

  /// x <- RMSNorm(x; output_norm), in place, these rows.
  virtual void final_norm(RowRange rows) = 0;
  /// logits [rows.count, vocab] in host memory = W_head x of these rows, after the final norm.
  virtual void head(RowRange rows, MatrixView<float> logits) = 0;
  /// Candidates of one row's logits, which stay where they are computed. None where that is the host's memory
  /// and where a sampler has to see them all, because they are no numbers: then head() is to be called.
  virtual std::optional<LogitCandidates> candidates(int64_t /*row*/, const CandidateRequest& /*request*/) {
    return {};
  }
  /// The logits [vocab] that candidates() were given of last; head() was not called since.
  virtual void read_logits(std::span<float> /*logits*/) {}

  /// After embed() or resume(), when a pass will not be completed: ends what is under way, so that nothing
  /// waits for calls that do not come.
  virtual void give_up_pass() {}

  /// After an Error in a pass: what a GPU that failed was computing, in words; empty when none failed.
  [[nodiscard]] virtual std::string failed_in() const { return {}; }

  /// Writes over what the clock around the calls says of the last pass where the backend knows better. To be
  /// called after the pass; may wait for it. Of a divided model the times of the GPU's layers.
  virtual void correct_times(LayerTimes& /*times*/) {}
};

}  // namespace sluice
