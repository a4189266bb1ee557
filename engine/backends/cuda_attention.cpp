// The attention block on a GPU: MLA projections, lightning indexer, selection, sparse or dense attention in
// absorbed form, dense attention of many tokens in the expanded one, output projection. Formula numbers are
// those of the model specification.
#include <algorithm>
#include <cassert>
#include <vector>

#include "engine/backends/cuda_backend.h"
#include "engine/backends/cuda_head_products.h"
#include "kernels_cuda/base/check.h"
#include "kernels_cuda/gemv.h"
#include "kernels_cuda/indexer.h"
#include "kernels_cuda/latent_expansion.h"
#include "kernels_cuda/mla.h"
#include "kernels_cuda/mla_expanded.h"
#include "kernels_cuda/norm.h"
#include "kernels_cuda/rope.h"
#include "kernels_cuda/topk.h"

namespace sluice {

bool CudaBackend::selects(const Batch& batch, int64_t position) const {
  // Up to top-k tokens of context everything is selected: sparse attention is dense attention then.
  return batch.attention == AttentionMode::kSparse && position + 1 > config_.index_top_k;
}

cuda::TokenPositions CudaBackend::positions(const Batch& batch) const {
  return {.positions = buffers_.positions + batch.first_row,
          .cos_sin = buffers_.cos_sin,
          .n_tokens = batch.n_tokens()};
}

// The last token's row, position and length go to where a pass of one token has them.
void CudaBackend::keep_last_token(int64_t layer, const Batch& batch) {
  assert(!replays_);
  const int64_t others = batch.n_tokens() - 1;
  for_tiles(others, [&](RowRange rows) { put_cache_rows(layer, batch.part(rows.begin, rows.count)); });
  cuda::check(cudaMemcpyAsync(buffers_.residual, residual_at({others, 1}),
                              static_cast<size_t>(config_.d_model) * sizeof(float), cudaMemcpyDeviceToDevice,
                              stream_.get()),
              "keeping the last token's row");
  const auto pitch = static_cast<size_t>(pass_) * sizeof(int32_t);
  cuda::check(cudaMemcpy2DAsync(buffers_.ids, pitch, buffers_.ids + others, pitch, sizeof(int32_t), 3,
                                cudaMemcpyDeviceToDevice, stream_.get()),
              "keeping the last token's position");
  streaming_ = false;  // a single token's experts are the CPU's
}

void CudaBackend::attention(int64_t layer, const Batch& batch) {
  if (!replays_) {
    put_attention(layer, batch);
  }
}

void CudaBackend::put_attention(int64_t layer, const Batch& batch) {
  for_tiles(batch.n_tokens(),
            [&](RowRange rows) { put_attention_tile(layer, batch.part(rows.begin, rows.count)); });
  clock_.end_of(CudaBlockClock::Block::kAttention, layer, stream_.get());
}

void CudaBackend::put_attention_tile(int64_t layer_index, const Batch& batch) {
  const CudaLayer& layer = layer_weights(layer_index);
  const auto& cache = dynamic_cast<const CudaCache&>(*batch.cache);
  const int64_t n = batch.n_tokens();

  norm_residual(layer.attention_norm, rows_of(batch), progress_.begin_of(CudaBlock::kAttention, layer_index));
  const bool any_selects = config_.has_indexer && selects(batch, batch.first_position + n - 1);
  project_input(layer, n, any_selects ? AttentionUse::kSelect : AttentionUse::kAttend);
  project_query(layer, batch, any_selects);
  store(layer_index, batch, cache);
  if (const int64_t heads = expanded_heads(batch, cache); heads > 0) {
    attend_expanded(layer_index, batch, cache, heads);
  } else {
    attend_in_steps(layer_index, batch, cache, any_selects);
  }
  const CudaProduct product{layer.output, {buffers_.block_output, n, config_.d_model}};
  products_.multiply({&product, 1}, {buffers_.value, n, config_.heads * config_.d_value}, stream_.get());
  if (batch.observer != nullptr) {
    const float* const output = to_host(buffers_.block_output, n, config_.d_model).data();
    batch.observer->attention_output(layer_index, batch.first_position, {output, n, config_.d_model});
  }
  add_block(rows_of(batch));
}

void CudaBackend::put_cache_rows(int64_t layer_index, const Batch& batch) {
  const CudaLayer& layer = layer_weights(layer_index);
  norm_residual(layer.attention_norm, rows_of(batch), progress_.begin_of(CudaBlock::kAttention, layer_index));
  project_input(layer, batch.n_tokens(), AttentionUse::kStore);
  store(layer_index, batch, dynamic_cast<const CudaCache&>(*batch.cache));
}

void CudaBackend::attend_in_steps(int64_t layer_index, const Batch& batch, const CudaCache& cache,
                                  bool any_selects) {
  const int64_t n = batch.n_tokens();
  const CudaHeadProducts heads({config_, layer_weights(layer_index), buffers_, products_}, n, cache.type(),
                               stream_.get());
  for (int64_t begin = 0; begin < n; begin += buffers_.step) {
    Step step{.begin = begin, .count = std::min(buffers_.step, n - begin), .selects = false};
    step.selects = any_selects && selects(batch, batch.first_position + step.begin + step.count - 1);
    heads.absorb(buffers_.query + begin * config_.heads * config_.d_head(), step.count, stream_.get());
    if (step.selects) {
      select(layer_index, batch, step, cache);
    }
    if (batch.observer != nullptr) {
      observe_selection(layer_index, batch, step);
    }
    attend(layer_index, batch, step, cache, heads.type());
    heads.expand(buffers_.value + begin * config_.heads * config_.d_value, step.count, stream_.get());
  }
}

// What the block's input meets: 2.2, steps 1 and 3, and 2.6, steps 2 and 6.
void CudaBackend::project_input(const CudaLayer& layer, int64_t n, AttentionUse use) {
  const CudaProduct products[] = {
      {layer.query_a, {buffers_.query_latent, n, config_.q_rank}},
      {layer.kv_a, {buffers_.kv, n, config_.d_cache()}},
      {layer.index_key, {buffers_.index_key, n, config_.d_index}},
      {layer.index_head_weights, {buffers_.index_weights, n, config_.index_heads}, CudaRounding::kNone}};
  const size_t begin = use == AttentionUse::kStore ? 1 : 0;
  const size_t end = use == AttentionUse::kSelect ? 4 : config_.has_indexer ? 3 : 2;
  products_.multiply(std::span(products).subspan(begin, end - begin), {buffers_.normed, n, config_.d_model},
                     stream_.get());
}

// 2.2, step 2, and 2.6, steps 1 and 3.
void CudaBackend::project_query(const CudaLayer& layer, const Batch& batch, bool any_selects) {
  const int64_t n = batch.n_tokens();
  const int64_t index_cols = config_.index_heads * config_.d_index;
  cuda::rms_norm({.x = buffers_.query_latent,
                  .x_stride = config_.q_rank,
                  .y = buffers_.query_latent,
                  .y_stride = config_.q_rank,
                  .rows = n,
                  .n = config_.q_rank},
                 layer.query_a_norm, config_.rms_eps, stream_.get());
  const CudaProduct products[] = {{layer.query_b, {buffers_.query, n, config_.heads * config_.d_head()}},
                                  {layer.index_query, {buffers_.index_query, n, index_cols}}};
  products_.multiply(std::span(products).first(any_selects ? 2 : 1),
                     {buffers_.query_latent, n, config_.q_rank}, stream_.get());
  cuda::RopeParams turn{.x = buffers_.query + config_.d_nope,
                        .token_stride = config_.heads * config_.d_head(),
                        .head_stride = config_.d_head(),
                        .n_tokens = n,
                        .n_heads = config_.heads,
                        .dims = config_.d_rope,
                        .layout = cuda::RopeLayout::kInterleaved,
                        .cos_sin = buffers_.cos_sin,
                        .positions = positions(batch).positions};
  cuda::rope(turn, stream_.get());
  if (any_selects) {
    turn.x = buffers_.index_query;
    turn.token_stride = index_cols;
    turn.head_stride = config_.d_index;
    turn.n_heads = config_.index_heads;
    turn.layout = cuda::RopeLayout::kHalfSplit;
    cuda::rope(turn, stream_.get());
  }
}

// 2.2, steps 3 and 4, and 2.6, steps 2, 3 and 5.
void CudaBackend::store(int64_t layer_index, const Batch& batch, const CudaCache& cache) {
  const CudaLayer& layer = layer_weights(layer_index);
  const cuda::LatentWrite latent{.u = buffers_.kv,
                                 .u_stride = config_.d_cache(),
                                 .gain = layer.kv_a_norm,
                                 .eps = config_.rms_eps,
                                 .d_latent = config_.d_latent,
                                 .d_rope = config_.d_rope,
                                 .rows = cache.rows(CachePart::kLatent, layer_index),
                                 .row_bytes = cache.row_bytes(CachePart::kLatent)};
  const auto write_latent = cache.type() == CacheType::kF32 ? cuda::write_latent_f32
                            : has_fp8_latents(cache.type()) ? cuda::write_latent_fp8
                                                            : cuda::write_latent_bf16;
  write_latent(latent, positions(batch), stream_.get());
  if (!config_.has_indexer) {
    return;
  }
  const cuda::IndexKeyWrite key{.k = buffers_.index_key,
                                .k_stride = config_.d_index,
                                .gain = layer.index_norm_gain,
                                .bias = layer.index_norm_bias,
                                .eps = kIndexerLayerNormEps,
                                .d_index = config_.d_index,
                                .d_rope = config_.d_rope};
  std::byte* const keys = cache.rows(CachePart::kIndexKeys, layer_index);
  if (has_int8_keys(cache.type())) {
    cuda::write_index_keys_int8(key, positions(batch), reinterpret_cast<int8_t*>(keys),
                                cache.index_scales(layer_index), stream_.get());
  } else if (cache.type() == CacheType::kF32) {
    cuda::write_index_keys_f32(key, positions(batch), reinterpret_cast<float*>(keys), stream_.get());
  } else {
    cuda::write_index_keys_bf16(key, positions(batch), reinterpret_cast<uint16_t*>(keys), stream_.get());
  }
}

// 2.6, steps 6 to 8. Tokens that see no more than top-k positions get all of them.
void CudaBackend::select(int64_t layer_index, const Batch& batch, const Step& step, const CudaCache& cache) {
  const cuda::IndexKeys keys = cache.index_keys(layer_index);
  const cuda::IndexQueries queries{
      .values = buffers_.index_values, .low = buffers_.index_low, .weights = buffers_.index_head_weights};
  cuda::launch_index_queries(
      {.heads = buffers_.index_query + step.begin * config_.index_heads * config_.d_index,
       .weights = buffers_.index_weights + step.begin * config_.index_heads,
       .n_queries = step.count,
       .n_heads = config_.index_heads,
       .d_index = config_.d_index,
       .format = keys.format,
       .out = queries},
      stream_.get());
  const int64_t visible = batch.first_position + step.begin + step.count;
  cuda::launch_index_scores({.queries = queries,
                             .keys = keys,
                             .n_queries = step.count,
                             .n_heads = config_.index_heads,
                             .d_index = config_.d_index,
                             .lengths = buffers_.lengths + batch.first_row + step.begin,
                             .most_keys = visible,
                             .scores = buffers_.scores,
                             .score_stride = buffers_.score_stride},
                            stream_.get());
  cuda::launch_top_k({.scores = buffers_.scores,
                      .score_stride = buffers_.score_stride,
                      .n_rows = step.count,
                      .lengths = buffers_.lengths + batch.first_row + step.begin,
                      .most_scores = visible,
                      .k = config_.index_top_k,
                      .selected = buffers_.selected,
                      .counts = buffers_.counts,
                      .scratch = buffers_.top_k_scratch},
                     stream_.get());
}

// 2.5, absorbed form, steps 2 and 3.
void CudaBackend::attend(int64_t layer_index, const Batch& batch, const Step& step, const CudaCache& cache,
                         cuda::FloatType type) {
  const int64_t visible = batch.first_position + step.begin + step.count;
  const int64_t most_rows = step.selects ? std::min(visible, config_.index_top_k) : visible;
  const cuda::MlaPlan plan = cuda::plan_mla(step.count, config_.heads, most_rows, multiprocessors_);
  assert(cuda::mla_scratch_bytes(step.count, config_.heads, config_.d_latent, plan.splits) <=
         buffers_.attention_scratch_bytes);
  cuda::launch_mla(
      {.queries = buffers_.absorbed_query,
       .query_type = type,
       .n_queries = step.count,
       .n_heads = config_.heads,
       .d_latent = config_.d_latent,
       .d_rope = config_.d_rope,
       .rows = cache.latent_rows(layer_index),
       .selected = step.selects ? buffers_.selected : nullptr,
       .selected_stride = config_.index_top_k,
       .counts = step.selects ? buffers_.counts : buffers_.lengths + batch.first_row + step.begin,
       .softmax_scale = config_.softmax_scale(),
       .plan = plan,
       .scratch = buffers_.attention_scratch,
       .out = buffers_.attended,
       .out_type = type},
      stream_.get());
}

ExpandedAttentionShape CudaBackend::expanded_shape(const Batch& batch, const CudaCache& cache) const {
  return {.config = config_,
          .cache = cache.type(),
          .first_position = batch.first_position,
          .n_tokens = batch.n_tokens(),
          .multiprocessors = multiprocessors_};
}

// Where no token of the tile selects: in the mode that is dense, or before there is a choice.
int64_t CudaBackend::expanded_heads(const Batch& batch, const CudaCache& cache) const {
  const CudaProducts::Bf16* const work = products_.bf16();
  if (work == nullptr || selects(batch, batch.first_position + batch.n_tokens() - 1)) {
    return 0;
  }
  return expanded_attention_heads(expanded_shape(batch, cache), work->scratch.weights().bytes());
}

// 2.5, expanded form, in the memory of the products' decoded weights, which is free meanwhile.
void CudaBackend::attend_expanded(int64_t layer_index, const Batch& batch, const CudaCache& cache,
                                  int64_t heads) {
  const CudaLayer& layer = layer_weights(layer_index);
  const CudaProducts::Bf16& work = *products_.bf16();
  const ExpandedAttentionShape shape = expanded_shape(batch, cache);
  DeviceLayout layout(work.scratch.weights().data(), work.scratch.weights().bytes());
  const ExpandedAttentionBuffers memory(shape, heads, layout);
  cuda::LatentRows rows = cache.latent_rows(layer_index);
  if (rows.format == cuda::LatentFormat::kFp8) {
    cuda::launch_latent_to_bf16(rows, shape.rows(), config_.d_latent, config_.d_rope, memory.rows,
                                stream_.get());
    rows = {memory.rows, cuda::LatentFormat::kBf16, shape.rows(), 2 * config_.d_cache()};
  }
  cuda::LatentExpansion expansion{
      .shape = {.d_nope = config_.d_nope, .d_rope = config_.d_rope, .d_value = config_.d_value},
      .d_latent = config_.d_latent,
      .key_b = layer.key_b.panels,
      .value_b = layer.value_b.panels,
      .rows = rows,
      .n_rows = shape.rows(),
      .weights = memory.weights,
      .keys = memory.keys,
      .values = memory.values};
  for (int64_t first = 0; first < config_.heads; first += heads) {
    expansion.first_head = first;
    expansion.heads = std::min(heads, config_.heads - first);
    cuda::expand_latents(expansion, work.blas, stream_.get());
    cuda::launch_mla_expanded({.shape = expansion.shape,
                               .queries = buffers_.query,
                               .query_type = cuda::FloatType::kF32,
                               .n_queries = batch.n_tokens(),
                               .n_heads = config_.heads,
                               .first_head = first,
                               .heads = expansion.heads,
                               .keys = memory.keys,
                               .values = memory.values,
                               .n_rows = shape.rows(),
                               .rope = rows,
                               .d_latent = config_.d_latent,
                               .counts = buffers_.lengths + batch.first_row,
                               .softmax_scale = config_.softmax_scale(),
                               .out = buffers_.value,
                               .out_type = cuda::FloatType::kF32},
                              stream_.get());
  }
  if (batch.observer != nullptr) {
    observe_selection(layer_index, batch, {.begin = 0, .count = batch.n_tokens(), .selects = false});
  }
}

void CudaBackend::observe_selection(int64_t layer_index, const Batch& batch, const Step& step) {
  const auto k = static_cast<size_t>(config_.index_top_k);
  const auto stride = static_cast<size_t>(buffers_.score_stride);
  std::vector<int32_t> selected;
  std::vector<float> scores;
  if (step.selects) {
    const auto tokens = static_cast<size_t>(step.count);
    selected.resize(tokens * k);
    scores.resize(tokens * stride);
    stream_.synchronize();
    cuda::check(cudaMemcpy(selected.data(), buffers_.selected, selected.size() * sizeof(int32_t),
                           cudaMemcpyDeviceToHost),
                "reading selections");
    cuda::check(
        cudaMemcpy(scores.data(), buffers_.scores, scores.size() * sizeof(float), cudaMemcpyDeviceToHost),
        "reading index scores");
  }
  for (int64_t t = 0; t < step.count; ++t) {
    const int64_t position = batch.first_position + step.begin + t;
    if (selects(batch, position) && step.selects) {
      batch.observer->selection(
          layer_index, position, std::span(selected).subspan(static_cast<size_t>(t) * k, k),
          std::span(scores).subspan(static_cast<size_t>(t) * stride, static_cast<size_t>(position + 1)));
    } else {
      batch.observer->selection(layer_index, position, {}, {});
    }
  }
}

}  // namespace sluice
