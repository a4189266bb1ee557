// The attention block on the CPU: MLA projections, lightning indexer, selection, sparse or dense attention in
// absorbed form, output projection. Formula numbers are those of the model specification.
#include <algorithm>
#include <cmath>

#include "engine/backends/cpu_backend.h"

namespace sluice {
namespace {

constexpr int64_t kTokenGrain = 4;   // tokens per task of cheap per-token work
constexpr int64_t kKeyGrain = 2048;  // index keys per task when a single query is scored by all workers

}  // namespace

void CpuBackend::attention(int64_t layer_index, const Batch& batch, MatrixView<float> x) {
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(layer_index)];
  const int64_t n = batch.n_tokens();
  const MatrixView<float> normed = buffers_.normed.rows(n);

  prepare_rope(batch);
  rms_norm(x, layer.attention_norm, normed);
  project_query(layer, n);
  matmul(layer.kv_a, normed, buffers_.kv.rows(n));
  store_latents(layer_index, batch);
  if (config_.has_indexer) {
    matmul(layer.indexer.key, normed, buffers_.index_key.rows(n));
    store_index_keys(layer_index, batch);
    if (selects(batch, batch.first_position + n - 1)) {
      project_index_query(layer.indexer, n);
    }
  }
  absorb_query(layer, n);
  attend(layer_index, batch);
  workers_.for_ranges(config_.heads, 1, [&](int64_t h, int64_t, int64_t worker) {
    cpu::matmul_rows(kernels_, layer.value_b[static_cast<size_t>(h)], 0, config_.d_value,
                     buffers_.attended.rows(n).cols_from(h * config_.d_latent, config_.d_latent),
                     buffers_.value.rows(n).cols_from(h * config_.d_value, config_.d_value),
                     scratch_[static_cast<size_t>(worker)].floats);
  });
  const MatrixView<float> output = buffers_.block_output.rows(n);
  matmul(layer.output, buffers_.value.rows(n), output);
  if (batch.observer != nullptr) {
    batch.observer->attention_output(layer_index, batch.first_position, output);
  }
  for (int64_t t = 0; t < n; ++t) {
    kernels_.add_scaled(output.row(t).data(), 1.0F, config_.d_model, x.row(t).data());
  }
}

void CpuBackend::prepare_rope(const Batch& batch) {
  for (int64_t t = 0; t < batch.n_tokens(); ++t) {
    cpu::rope_angles(frequencies_, batch.first_position + t, buffers_.cos_sin.rows(batch.n_tokens()).row(t));
  }
}

// 2.2, steps 1 and 2.
void CpuBackend::project_query(const LayerWeights& layer, int64_t n) {
  const MatrixView<float> latent = buffers_.query_latent.rows(n);
  const MatrixView<float> query = buffers_.query.rows(n);
  matmul(layer.query_a, buffers_.normed.rows(n), latent);
  rms_norm(latent, layer.query_a_norm, latent);
  matmul(layer.query_b, latent, query);
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < config_.heads; ++h) {
        const auto head = query.row(t).subspan(static_cast<size_t>(h * config_.d_head()));
        cpu::rope_interleaved(
            buffers_.cos_sin.rows(n).row(t),
            head.subspan(static_cast<size_t>(config_.d_nope), static_cast<size_t>(config_.d_rope)));
      }
    }
  });
}

// 2.2, steps 3 and 4: the latent is normed, the rope part is rotated and not normed.
void CpuBackend::store_latents(int64_t layer_index, const Batch& batch) {
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(layer_index)];
  const int64_t n = batch.n_tokens();
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      const std::span<float> row = buffers_.kv.rows(n).row(t);
      kernels_.rms_norm(row.data(), layer.kv_a_norm.data(), config_.rms_eps, config_.d_latent, row.data());
      cpu::rope_interleaved(buffers_.cos_sin.rows(n).row(t),
                            row.subspan(static_cast<size_t>(config_.d_latent)));
      batch.cache->store_latent(kernels_, layer_index, batch.first_position + t, row);
    }
  });
}

// 2.6, steps 2, 3 and 5: the rope part comes first, and its pairs are half a vector apart.
void CpuBackend::store_index_keys(int64_t layer_index, const Batch& batch) {
  const IndexerWeights& weights = model_.weights().layers[static_cast<size_t>(layer_index)].indexer;
  const int64_t n = batch.n_tokens();
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      const std::span<float> key = buffers_.index_key.rows(n).row(t);
      kernels_.layer_norm(key.data(), weights.norm_gain.data(), weights.norm_bias.data(),
                          kIndexerLayerNormEps, config_.d_index, key.data());
      cpu::rope_half_split(buffers_.cos_sin.rows(n).row(t), key.first(static_cast<size_t>(config_.d_rope)));
      batch.cache->store_index_key(kernels_, layer_index, batch.first_position + t, key);
    }
  });
}

// 2.6, steps 1, 3 and 6.
void CpuBackend::project_index_query(const IndexerWeights& weights, int64_t n) {
  const MatrixView<float> query = buffers_.index_query.rows(n);
  const MatrixView<float> head_weights = buffers_.index_weights.rows(n);
  matmul(weights.query, buffers_.query_latent.rows(n), query);
  matmul(weights.head_weights, buffers_.normed.rows(n), head_weights);
  const float scale = 1.0F / std::sqrt(static_cast<float>(config_.index_heads * config_.d_index));
  for (int64_t t = 0; t < n; ++t) {
    kernels_.scale(scale, config_.index_heads, head_weights.row(t).data());
    for (int64_t h = 0; h < config_.index_heads; ++h) {
      cpu::rope_half_split(buffers_.cos_sin.rows(n).row(t),
                           query.row(t).subspan(static_cast<size_t>(h * config_.d_index),
                                                static_cast<size_t>(config_.d_rope)));
    }
  }
}

// 2.5, absorbed form, step 1: the no-position query moves into latent space, the rope part follows it.
void CpuBackend::absorb_query(const LayerWeights& layer, int64_t n) {
  const MatrixView<float> query = buffers_.query.rows(n);
  const MatrixView<float> absorbed = buffers_.absorbed_query.rows(n);
  workers_.for_ranges(config_.heads, 1, [&](int64_t h, int64_t, int64_t worker) {
    cpu::matmul_rows(kernels_, layer.key_b[static_cast<size_t>(h)], 0, config_.d_latent,
                     query.cols_from(h * config_.d_head(), config_.d_nope),
                     absorbed.cols_from(h * config_.d_cache(), config_.d_latent),
                     scratch_[static_cast<size_t>(worker)].floats);
    for (int64_t t = 0; t < n; ++t) {
      const float* rope = query.row(t).data() + h * config_.d_head() + config_.d_nope;
      std::copy_n(rope, config_.d_rope, absorbed.row(t).data() + h * config_.d_cache() + config_.d_latent);
    }
  });
}

bool CpuBackend::selects(const Batch& batch, int64_t position) const {
  // Up to top-k tokens of context everything is selected: sparse attention is dense attention then.
  return batch.attention == AttentionMode::kSparse && position + 1 > config_.index_top_k;
}

void CpuBackend::score_keys(int64_t layer, const Batch& batch, int64_t t, int64_t begin,
                            std::span<float> scores, WorkerScratch& scratch) {
  const int64_t n = batch.n_tokens();
  cpu::CacheRows keys = batch.cache->index_rows(layer);
  keys.data += begin * keys.row_bytes;
  const MatrixView<const float> query(buffers_.index_query.rows(n).row(t).data(), config_.index_heads,
                                      config_.d_index);
  cpu::index_scores(kernels_, query, buffers_.index_weights.rows(n).row(t), keys, scores, scratch.floats);
}

// 2.6, steps 7 and 8.
std::span<const int32_t> CpuBackend::select(int64_t layer, const Batch& batch, int64_t t,
                                            WorkerScratch& scratch) {
  const int64_t position = batch.first_position + t;
  std::span<const int32_t> selected;
  std::span<const float> scores;
  if (selects(batch, position)) {
    const std::span<float> visible = std::span(scratch.scores).first(static_cast<size_t>(position + 1));
    if (batch.n_tokens() == 1) {
      workers_.for_ranges(position + 1, kKeyGrain, [&](int64_t begin, int64_t end, int64_t worker) {
        score_keys(layer, batch, t, begin,
                   visible.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                   scratch_[static_cast<size_t>(worker)]);
      });
    } else {
      score_keys(layer, batch, t, 0, visible, scratch);
    }
    const int64_t count = cpu::top_k(visible, config_.index_top_k, scratch.selected, scratch.top_k);
    selected = std::span(scratch.selected).first(static_cast<size_t>(count));
    scores = visible;
  }
  if (batch.observer != nullptr) {
    const std::lock_guard lock(observer_mutex_);
    batch.observer->selection(layer, position, selected, scores);
  }
  return selected;
}

// 2.5, absorbed form, steps 2 and 3, for heads [head_begin, head_end) of token t.
void CpuBackend::attend_token(int64_t layer, const Batch& batch, int64_t t, int64_t head_begin,
                              int64_t head_end, std::span<const int32_t> selected, WorkerScratch& scratch) {
  const int64_t n = batch.n_tokens();
  const int64_t position = batch.first_position + t;
  const cpu::RowSelection selection{selected,
                                    selected.empty() ? position + 1 : static_cast<int64_t>(selected.size())};
  const MatrixView<const float> query(buffers_.absorbed_query.rows(n).row(t).data(), config_.heads,
                                      config_.d_cache());
  const MatrixView<float> out(buffers_.attended.rows(n).row(t).data(), config_.heads, config_.d_latent);
  cpu::mla_attend(kernels_, query.rows_from(head_begin, head_end - head_begin),
                  batch.cache->latent_rows(layer), selection, config_.softmax_scale(),
                  out.rows_from(head_begin, head_end - head_begin), scratch.floats);
}

void CpuBackend::attend(int64_t layer, const Batch& batch) {
  for (WorkerScratch& scratch : scratch_) {
    // Grows with the context once; later calls find it large enough.
    const auto visible = static_cast<size_t>(batch.first_position + batch.n_tokens());
    if (scratch.scores.size() < visible) {
      scratch.scores.resize(static_cast<size_t>(batch.cache->capacity()));
      scratch.top_k.resize(static_cast<size_t>(batch.cache->capacity()));
    }
  }
  if (batch.n_tokens() > 1) {
    workers_.for_ranges(batch.n_tokens(), 1, [&](int64_t begin, int64_t end, int64_t worker) {
      WorkerScratch& scratch = scratch_[static_cast<size_t>(worker)];
      for (int64_t t = begin; t < end; ++t) {
        attend_token(layer, batch, t, 0, config_.heads, select(layer, batch, t, scratch), scratch);
      }
    });
    return;
  }
  // One token: the workers share its keys, then its heads.
  const std::span<const int32_t> selected = select(layer, batch, 0, scratch_[0]);
  const int64_t heads_per_task = (config_.heads + workers_.threads() - 1) / workers_.threads();
  workers_.for_ranges(config_.heads, heads_per_task, [&](int64_t begin, int64_t end, int64_t worker) {
    attend_token(layer, batch, 0, begin, end, selected, scratch_[static_cast<size_t>(worker)]);
  });
}

}  // namespace sluice
