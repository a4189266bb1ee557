// Every intermediate of the CUDA backend that lies on the GPU, with its shape. Sized once for the largest
// batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backends/device_layout.h"
#include "engine/model_config.h"

namespace sluice {

/// Tokens that go through index scores, selection and attention at a time, so that what is large for each of
/// them does not grow with the batch. Chosen: 64 tokens of 64 heads a block are a wave of most GPUs.
inline constexpr int64_t kCudaTileTokens = 64;
/// Tokens whose logits are on the GPU at a time.
inline constexpr int64_t kCudaHeadTokens = 32;

/// Tokens of the longest cache: the model's, or what a selection can choose from.
int64_t cuda_context(const ModelConfig& config);

struct CudaActivationShape {
  const ModelConfig& config;
  int64_t max_tokens = 0;
  int64_t multiprocessors = 0;
};

struct CudaActivations {
  CudaActivations(const CudaActivationShape& shape, DeviceLayout& layout);

  int32_t* ids;        // [max_tokens]
  int32_t* positions;  // [max_tokens], right after ids
  int32_t* lengths;    // [max_tokens], right after positions: position + 1
  float* cos_sin;      // [cuda_context, d_rope]

  float* residual;       // [n_tokens, d_model]
  float* normed;         // [n_tokens, d_model]: the block's input after its norm
  float* query_latent;   // [n_tokens, q_rank]
  float* query;          // [n_tokens, heads * (d_nope + d_rope)]
  float* kv;             // [n_tokens, d_latent + d_rope]: what becomes a cache row
  float* value;          // [n_tokens, heads * d_value]
  float* block_output;   // [n_tokens, d_model]: before the residual add
  float* index_query;    // [n_tokens, index_heads * d_index]
  float* index_weights;  // [n_tokens, index_heads], scaled
  float* index_key;      // [n_tokens, d_index]
  float* gate;           // [n_tokens, d_ffn]
  float* up;             // [n_tokens, d_ffn]
  float* router_logits;  // [n_tokens, experts]
  float* logits;         // [kCudaHeadTokens, vocab]

  // Of a tile of tokens.
  float* absorbed_query;      // [tile, heads * (d_latent + d_rope)]
  float* attended;            // [tile, heads * d_latent]: softmax-weighted latents
  std::byte* index_values;    // [tile, index_heads, d_index] floats, bf16 or int8
  std::byte* index_low;       // [tile, index_heads, d_index] bf16
  float* index_head_weights;  // [tile, index_heads], as the score kernel wants them
  float* scores;              // [tile, score_stride]
  int64_t score_stride;       // cuda_context, rounded up to fours
  int32_t* selected;          // [tile, index_top_k]
  int32_t* counts;            // [tile]
  std::byte* top_k_scratch;
  std::byte* attention_scratch;
  int64_t attention_scratch_bytes;
};

}  // namespace sluice
