// A model whose layers two backends compute, one after the other: the CPU the first ones, a GPU the others
// and the head. The residual stream crosses once in a pass, through host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "engine/backends/backend.h"

namespace sluice {

class SplitBackend final : public Backend {
 public:
  /// `first` computes the embedding and the layers before `border`, `rest` the others, if there are any, and
  /// the head. Keeps a reference to `config`.
  SplitBackend(const ModelConfig& config, int64_t border, std::unique_ptr<Backend> first,
               std::unique_ptr<Backend> rest);

  /// A SplitCache of one from each.
  [[nodiscard]] std::unique_ptr<KvCache> make_cache(int64_t capacity, CacheType type) override;
  void embed(const Batch& batch) override;
  void resume(const Batch& batch, MatrixView<const float> x) override;
  void keep_last_token(int64_t layer, const Batch& batch) override;
  void attention(int64_t layer, const Batch& batch) override;
  void dense_ffn(int64_t layer, int64_t n_tokens) override;
  [[nodiscard]] bool computes_experts(int64_t layer) const override;
  std::optional<Routed> routed_ffn(int64_t layer, const Batch& batch) override;
  Routed route(int64_t layer, int64_t n_tokens) override;
  void finish_experts(int64_t layer, int64_t n_tokens) override;
  MatrixView<const float> residual(int64_t n_tokens) override;
  void final_norm(RowRange rows) override;
  void head(RowRange rows, MatrixView<float> logits) override;
  std::optional<LogitCandidates> candidates(int64_t row, const CandidateRequest& request) override;
  void read_logits(std::span<float> logits) override;
  void give_up_pass() override;
  [[nodiscard]] std::string failed_in() const override;
  void correct_times(LayerTimes& times) override;

 private:
  [[nodiscard]] Backend& of(int64_t layer) const { return layer < border_ ? *first_ : *rest_; }
  /// The batch with the layer's half of its cache.
  [[nodiscard]] Batch batch_of(int64_t layer, const Batch& batch) const;
  /// Before the layer, if it is the first behind the border and has not been reached yet.
  void cross_before(int64_t layer, const Batch& batch);
  void cross(const Batch& batch);

  const ModelConfig& config_;
  int64_t border_;
  std::unique_ptr<Backend> first_;
  std::unique_ptr<Backend> rest_;
  Batch batch_;           // of this pass, or what is left of it
  bool crossed_ = false;  // x is with `rest_`
};

}  // namespace sluice
