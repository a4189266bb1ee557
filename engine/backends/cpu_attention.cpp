// The attention block on the CPU: MLA projections, lightning indexer, selection, sparse or dense attention in
// absorbed form, output projection. Formula numbers are those of the model specification.
#include <algorithm>
#include <cmath>

#include "engine/backends/cpu_backend.h"

namespace sluice {
namespace {

constexpr int64_t kTokenGrain = 4;  // tokens per task of cheap per-token work

}  // namespace

void CpuBackend::keep_last_token(int64_t layer_index, const Batch& batch) {
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(layer_index)];
  const int64_t others = batch.n_tokens() - 1;
  const MatrixView<float> x = buffers_.residual.rows(batch.n_tokens());
  prepare_rope(batch.part(0, others));
  rms_norm(x.rows_from(0, others), layer.attention_norm, buffers_.normed.rows(others));
  project_input(layer, others, AttentionUse::kStore);
  store(layer_index, batch.part(0, others));
  std::ranges::copy(x.row(others), x.row(0).begin());
}

void CpuBackend::attention(int64_t layer_index, const Batch& batch) {
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(layer_index)];
  const int64_t n = batch.n_tokens();
  const MatrixView<float> x = buffers_.residual.rows(n);
  const MatrixView<float> normed = buffers_.normed.rows(n);

  prepare_rope(batch);
  rms_norm(x, layer.attention_norm, normed);
  const bool selects = config_.has_indexer && attention_.selects(batch, batch.first_position + n - 1);
  project_input(layer, n, selects ? AttentionUse::kSelect : AttentionUse::kAttend);
  project_query(layer, n, selects, batch.cache->type());
  store(layer_index, batch);
  absorb_query(layer, n);
  attention_.attend(
      layer_index, batch,
      {buffers_.absorbed_query.rows(n), buffers_.index_query.rows(n), buffers_.index_weights.rows(n)},
      buffers_.attended.rows(n));
  workers_.for_ranges(config_.heads, 1, [&](int64_t h, int64_t, int64_t worker) {
    matmul_head(layer.value_b[static_cast<size_t>(h)],
                buffers_.attended.rows(n).cols_from(h * config_.d_latent, config_.d_latent),
                buffers_.value.rows(n).cols_from(h * config_.d_value, config_.d_value), worker);
  });
  const MatrixView<float> output = buffers_.block_output.rows(n);
  matmul(layer.output, buffers_.value.rows(n), output);
  if (batch.observer != nullptr) {
    batch.observer->attention_output(layer_index, batch.first_position, output);
  }
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.add_scaled(output.row(t).data(), 1.0F, config_.d_model, x.row(t).data());
    }
  });
}

// Every layer turns by the same angles.
void CpuBackend::prepare_rope(const Batch& batch) {
  const int64_t n = batch.n_tokens();
  if (batch.first_position == rope_first_position_ && n == rope_tokens_) {
    return;
  }
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      cpu::rope_angles(frequencies_, batch.first_position + t, buffers_.cos_sin.rows(n).row(t));
    }
  });
  rope_first_position_ = batch.first_position;
  rope_tokens_ = n;
}

// What the block's input meets: 2.2, steps 1 and 3, and 2.6, steps 2 and 6.
void CpuBackend::project_input(const LayerWeights& layer, int64_t n, AttentionUse use) {
  const IndexerWeights& indexer = layer.indexer;
  const Product products[] = {{&layer.query_a, buffers_.query_latent.rows(n)},
                              {&layer.kv_a, buffers_.kv.rows(n)},
                              {&indexer.key, buffers_.index_key.rows(n)},
                              {&indexer.head_weights, buffers_.index_weights.rows(n)}};
  const size_t begin = use == AttentionUse::kStore ? 1 : 0;
  const size_t end = use == AttentionUse::kSelect ? 4 : config_.has_indexer ? 3 : 2;
  matmul(std::span(products).subspan(begin, end - begin), buffers_.normed.rows(n));
}

// 2.2, step 2, and 2.6, steps 1, 3 and 6.
void CpuBackend::project_query(const LayerWeights& layer, int64_t n, bool selects, CacheType cache_type) {
  const MatrixView<float> latent = buffers_.query_latent.rows(n);
  const MatrixView<float> query = buffers_.query.rows(n);
  rms_norm(latent, layer.query_a_norm, latent);
  const Product products[] = {{&layer.query_b, query}, {&layer.indexer.query, buffers_.index_query.rows(n)}};
  matmul(std::span(products).first(selects ? 2 : 1), latent);
  if (selects) {
    rotate_index_query(n, cache_type);
  }
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      const float* angles = buffers_.cos_sin.rows(n).row(t).data();
      for (int64_t h = 0; h < config_.heads; ++h) {
        float* head = query.row(t).data() + h * config_.d_head();
        kernels_.rope_interleaved(angles, config_.d_rope / 2, head + config_.d_nope);
      }
    }
  });
}

void CpuBackend::store(int64_t layer_index, const Batch& batch) {
  store_latents(layer_index, batch);
  if (config_.has_indexer) {
    store_index_keys(layer_index, batch);
  }
}

// 2.2, steps 3 and 4: the latent is normed, the rope part is rotated and not normed.
void CpuBackend::store_latents(int64_t layer_index, const Batch& batch) {
  const LayerWeights& layer = model_.weights().layers[static_cast<size_t>(layer_index)];
  const int64_t n = batch.n_tokens();
  auto& cache = dynamic_cast<CpuCache&>(*batch.cache);
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      const std::span<float> row = buffers_.kv.rows(n).row(t);
      kernels_.rms_norm(row.data(), layer.kv_a_norm.data(), config_.rms_eps, config_.d_latent, row.data());
      kernels_.rope_interleaved(buffers_.cos_sin.rows(n).row(t).data(), config_.d_rope / 2,
                                row.data() + config_.d_latent);
      cache.store_latent(kernels_, layer_index, batch.first_position + t, row);
    }
  });
}

// 2.6, steps 2 to 5: the rope part comes first, and its pairs are half a vector apart.
void CpuBackend::store_index_keys(int64_t layer_index, const Batch& batch) {
  const IndexerWeights& weights = model_.weights().layers[static_cast<size_t>(layer_index)].indexer;
  const int64_t n = batch.n_tokens();
  auto& cache = dynamic_cast<CpuCache&>(*batch.cache);
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      const std::span<float> key = buffers_.index_key.rows(n).row(t);
      kernels_.layer_norm(key.data(), weights.norm_gain.data(), weights.norm_bias.data(),
                          kIndexerLayerNormEps, config_.d_index, key.data());
      kernels_.rope_half_split(buffers_.cos_sin.rows(n).row(t).data(), config_.d_rope / 2, key.data());
      if (has_int8_keys(cache.type())) {
        cpu::hadamard(key);
      }
      cache.store_index_key(kernels_, layer_index, batch.first_position + t, key);
    }
  });
}

// 2.6, steps 3, 4 and 6.
void CpuBackend::rotate_index_query(int64_t n, CacheType cache_type) {
  const MatrixView<float> query = buffers_.index_query.rows(n);
  const MatrixView<float> head_weights = buffers_.index_weights.rows(n);
  const float scale = 1.0F / std::sqrt(static_cast<float>(config_.index_heads * config_.d_index));
  workers_.for_ranges(n, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.scale(scale, config_.index_heads, head_weights.row(t).data());
      const float* angles = buffers_.cos_sin.rows(n).row(t).data();
      for (int64_t h = 0; h < config_.index_heads; ++h) {
        const std::span<float> head = query.row(t).subspan(static_cast<size_t>(h * config_.d_index),
                                                           static_cast<size_t>(config_.d_index));
        kernels_.rope_half_split(angles, config_.d_rope / 2, head.data());
        if (has_int8_keys(cache_type)) {
          cpu::hadamard(head);
        }
      }
    }
  });
}

// 2.5, absorbed form, step 1: the no-position query moves into latent space, the rope part follows it.
void CpuBackend::absorb_query(const LayerWeights& layer, int64_t n) {
  const MatrixView<float> query = buffers_.query.rows(n);
  const MatrixView<float> absorbed = buffers_.absorbed_query.rows(n);
  workers_.for_ranges(config_.heads, 1, [&](int64_t h, int64_t, int64_t worker) {
    matmul_head(layer.key_b[static_cast<size_t>(h)], query.cols_from(h * config_.d_head(), config_.d_nope),
                absorbed.cols_from(h * config_.d_cache(), config_.d_latent), worker);
    for (int64_t t = 0; t < n; ++t) {
      const float* rope = query.row(t).data() + h * config_.d_head() + config_.d_nope;
      std::copy_n(rope, config_.d_rope, absorbed.row(t).data() + h * config_.d_cache() + config_.d_latent);
    }
  });
}

}  // namespace sluice
