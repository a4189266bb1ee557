// A conversation's state: the tokens so far and their cache. Reuses the longest common prefix of what it
// already holds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <vector>

#include "engine/caches.h"
#include "engine/runtime.h"
#include "engine/sampler.h"

namespace sluice {

/// Called after each batch of a prompt: tokens done (cached ones included) and in all.
using PrefillProgress = std::function<void(int64_t done, int64_t total)>;

struct PrefillReport {
  int64_t tokens = 0;  // of the prompt
  int64_t cached = 0;  // of them, already in the cache
  double seconds = 0;
  bool completed = true;  // false: stopped
};

struct GenerateOptions {
  int64_t max_tokens = -1;  // -1 = until the context is full
  bool ignore_eos = false;
  std::function<bool(int32_t)>
      on_token;  // called with each token as it is chosen (end-of-generation tokens not); false stops
  std::stop_token stop;
};

enum class StopReason { kEndOfGeneration, kMaxTokens, kContextFull, kStopped };

struct GenerateReport {
  std::vector<int32_t> ids;  // generated, without the end-of-generation token
  double seconds = 0;
  StopReason reason = StopReason::kEndOfGeneration;
};

class Session {
 public:
  /// Context of `context` tokens. Keeps a reference to `runtime`. Throws Error when the context exceeds the
  /// model's or there is no memory for it.
  Session(Runtime& runtime, int64_t context, CacheType cache_type);

  /// Makes `ids` the session's tokens: keeps the longest common prefix, computes the rest in batches.
  /// Afterwards logits() are those of the last token. At least the last token is always computed. Throws
  /// Error when ids is empty, holds an id outside the vocabulary, or is longer than the context (naming both
  /// numbers). When stopped, the session holds the tokens that were completed.
  PrefillReport prefill(std::span<const int32_t> ids, const PrefillProgress& progress = {},
                        const std::stop_token& stop = {});

  /// Appends one token and computes its logits. Throws Error when the context is full.
  void append(int32_t id);

  /// Samples and appends until a stop. The session must hold logits (after prefill or append).
  /// The last sampled token is not computed; the next prefill does that. While it runs logits() are not to be
  /// asked for: what the sampler needs of them may be less than all.
  GenerateReport generate(Sampler& sampler, const GenerateOptions& options);

  /// Logits after the last token [vocab_size]. Throws Error when there are none.
  [[nodiscard]] std::span<const float> logits() const;
  [[nodiscard]] std::span<const int32_t> tokens() const { return tokens_; }
  [[nodiscard]] int64_t context() const { return cache_->capacity(); }
  [[nodiscard]] const KvCache& cache() const { return *cache_; }
  [[nodiscard]] Runtime& runtime() const { return runtime_; }
  /// Forgets all but the first `count` tokens.
  void truncate(int64_t count);

  /// Tokens, cache rows and logits to a file (written aside, then renamed), and back. Loading throws Error
  /// when the file is of another model, cache type or a longer context, or is damaged; the session is then
  /// unchanged.
  void save(const std::filesystem::path& path);
  void load(const std::filesystem::path& path);

 private:
  void check_ids(std::span<const int32_t> ids) const;
  // Computes ids at the end of tokens_ and appends them; false when stopped (then nothing changes).
  bool compute(const ForwardRequest& request);
  bool compute_next(int32_t id, const std::stop_token& stop,
                    const std::optional<CandidateRequest>& candidates = {});
  int32_t sample(Sampler& sampler, std::span<const int32_t> history);
  // logits_ in place of candidates_.
  void read_logits();

  Runtime& runtime_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> tokens_;                // all of them computed and in the cache
  std::vector<float> logits_;                  // after tokens_.back(), or empty
  std::optional<LogitCandidates> candidates_;  // of those, while generate() runs
};

}  // namespace sluice
