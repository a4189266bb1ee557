// Every intermediate of the CUDA backend that lies on the GPU, with its shape. Sized once for the largest
// pass and tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backends/device_layout.h"
#include "engine/model_config.h"

namespace sluice {

/// Tokens that go through index scores, selection and attention at a time, so that what is large for each of
/// them does not grow with the tile: 64 to 128 whose blocks of 64 heads are whole waves of the GPU, nearly.
int64_t cuda_step_tokens(int64_t heads, int64_t multiprocessors);
/// Tokens whose logits are on the GPU at a time.
inline constexpr int64_t kCudaHeadTokens = 32;

/// Tokens of the longest cache: the model's, or what a selection can choose from.
int64_t cuda_context(const ModelConfig& config);

struct CudaActivationShape {
  const ModelConfig& config;
  int64_t pass = 0;  // tokens
  int64_t tile = 0;  // of them that are computed at a time, in all but the routed experts
  int64_t multiprocessors = 0;
};

struct CudaActivations {
  CudaActivations(const CudaActivationShape& shape, DeviceLayout& layout);

  // Of a pass.
  int32_t* ids;        // [pass]
  int32_t* positions;  // [pass], right after ids
  int32_t* lengths;    // [pass], right after positions: position + 1
  float* residual;     // [pass, d_model]
  float* cos_sin;      // [cuda_context, d_rope]

  // Of a tile of n_tokens tokens.
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
  std::byte* sampling_scratch;

  // Of a step of tokens in attention. Absorbed queries and attended latents may be bf16 instead.
  int64_t step;               // tokens, at most
  float* absorbed_query;      // [step, heads * (d_latent + d_rope)]
  float* attended;            // [step, heads * d_latent]: softmax-weighted latents
  std::byte* index_values;    // [step, index_heads, d_index] floats, bf16 or int8
  std::byte* index_low;       // [step, index_heads, d_index] bf16
  float* index_head_weights;  // [step, index_heads], as the score kernel wants them
  float* scores;              // [step, score_stride]
  int64_t score_stride;       // cuda_context, rounded up to fours
  int32_t* selected;          // [step, index_top_k]
  int32_t* counts;            // [step]
  std::byte* top_k_scratch;
  std::byte* attention_scratch;
  int64_t attention_scratch_bytes;
};

}  // namespace sluice
