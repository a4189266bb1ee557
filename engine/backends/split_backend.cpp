#include "engine/backends/split_backend.h"

#include <utility>

#include "engine/backends/split_cache.h"

namespace sluice {

SplitBackend::SplitBackend(const ModelConfig& config, int64_t border, std::unique_ptr<Backend> first,
                           std::unique_ptr<Backend> rest)
    : config_(config), border_(border), first_(std::move(first)), rest_(std::move(rest)) {}

std::unique_ptr<KvCache> SplitBackend::make_cache(int64_t capacity, CacheType type) {
  return std::make_unique<SplitCache>(config_, first_->make_cache(capacity, type),
                                      rest_->make_cache(capacity, type));
}

Batch SplitBackend::batch_of(int64_t layer, const Batch& batch) const {
  const auto& cache = dynamic_cast<const SplitCache&>(*batch.cache);
  Batch part = batch;
  part.cache = layer < border_ ? &cache.first() : &cache.rest();
  return part;
}

void SplitBackend::embed(const Batch& batch) {
  batch_ = batch;
  crossed_ = false;
  first_->embed(batch_of(0, batch));
}

void SplitBackend::resume(const Batch& batch, MatrixView<const float> x) {
  batch_ = batch;
  crossed_ = false;
  first_->resume(batch_of(0, batch), x);
}

void SplitBackend::cross(const Batch& batch) {
  rest_->resume(batch_of(border_, batch), first_->residual(batch.n_tokens()));
  crossed_ = true;
}

void SplitBackend::cross_before(int64_t layer, const Batch& batch) {
  if (layer == border_ && !crossed_) {
    cross(batch);
  }
}

void SplitBackend::keep_last_token(int64_t layer, const Batch& batch) {
  cross_before(layer, batch);
  of(layer).keep_last_token(layer, batch_of(layer, batch));
  batch_ = batch.last_token();
}

void SplitBackend::attention(int64_t layer, const Batch& batch) {
  cross_before(layer, batch);
  of(layer).attention(layer, batch_of(layer, batch));
}

void SplitBackend::dense_ffn(int64_t layer, int64_t n_tokens) {
  of(layer).dense_ffn(layer, n_tokens);
}

bool SplitBackend::computes_experts(int64_t layer) const {
  return of(layer).computes_experts(layer);
}

std::optional<Backend::Routed> SplitBackend::routed_ffn(int64_t layer, const Batch& batch) {
  return of(layer).routed_ffn(layer, batch_of(layer, batch));
}

Backend::Routed SplitBackend::route(int64_t layer, int64_t n_tokens) {
  return of(layer).route(layer, n_tokens);
}

void SplitBackend::finish_experts(int64_t layer, int64_t n_tokens) {
  of(layer).finish_experts(layer, n_tokens);
}

MatrixView<const float> SplitBackend::residual(int64_t n_tokens) {
  return (crossed_ ? *rest_ : *first_).residual(n_tokens);
}

void SplitBackend::final_norm(RowRange rows) {
  if (!crossed_) {  // `rest_` has the head alone
    cross(batch_);
  }
  rest_->final_norm(rows);
}

void SplitBackend::head(RowRange rows, MatrixView<float> logits) {
  rest_->head(rows, logits);
}

std::optional<LogitCandidates> SplitBackend::candidates(int64_t row, const CandidateRequest& request) {
  return rest_->candidates(row, request);
}

void SplitBackend::read_logits(std::span<float> logits) {
  rest_->read_logits(logits);
}

void SplitBackend::give_up_pass() {
  first_->give_up_pass();
  rest_->give_up_pass();
}

std::string SplitBackend::failed_in() const {
  const std::string first = first_->failed_in();
  return first.empty() ? rest_->failed_in() : first;
}

void SplitBackend::correct_times(LayerTimes& times) {
  rest_->correct_times(times);
}

}  // namespace sluice
