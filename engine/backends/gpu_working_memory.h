// What the GPU backend works in beside weights and caches: shapes of its parts for a model and the bytes of
// each. Without CUDA: the backend allocates by it, and a plan counts by it for machines that are not here.
#pragma once

#include <cstdint>

#include "engine/backends/cuda_activations.h"
#include "engine/backends/device_layout.h"
#include "engine/model_config.h"
#include "engine/runtime.h"

namespace sluice {

/// Tokens of a product that is never rounded: what GEMV takes.
inline constexpr int64_t kMostExactTokens = 8;

/// Whether the products of more tokens may be rounded to bf16.
enum class CudaRounding { kAllowed, kNone };

struct CudaProductShape {
  int64_t max_tokens = 0;
  int64_t rows = 0;  // of all matrices of a call together, at most
  int64_t cols = 0;  // of a matrix, at most
  CudaRounding rounding = CudaRounding::kNone;
};

/// Bytes of a piece of a matrix in bf16: all of V3.2's but the FFN's of dense layers and the head fit.
inline constexpr int64_t kDecodedBytes = int64_t{256} << 20;

struct HandoverShape {
  int64_t max_tokens = 0;
  int64_t d_model = 0;
  int64_t used = 0;  // experts per token
};

struct CudaExpertShape {
  int64_t max_tokens = 0;
  int64_t d_model = 0;
  int64_t d_expert = 0;
  int64_t experts = 0;
  int64_t used = 0;
  CudaRounding rounding = CudaRounding::kNone;
};

/// Tokens that go through the products with chosen matrices at a time. Chosen: a working memory that does
/// not grow with the batch.
inline constexpr int64_t kFewExpertTokens = 16;

/// Whether experts meet more tokens than that in bf16.
bool rounds(const CudaExpertShape& shape);
/// Whether products take more than kMostExactTokens in bf16.
bool rounds(const CudaProductShape& shape);

/// Where CudaExperts computes.
struct CudaExpertBuffers {
  CudaExpertBuffers(const CudaExpertShape& shape, DeviceLayout& layout);
  int32_t* identity;  // [tile * used]: 0, 1, 2 ...
  float* gate;        // [slots, d_expert]
  float* up;          // [slots, d_expert]
  float* parts;       // [slots, d_model]
  uint16_t* f;        // [max_tokens, d_model] bf16, as the rest only where many are rounded
  uint16_t* hidden;   // [slots, d_expert] bf16
  int32_t* begins;    // [experts + 1]
  int32_t* tokens;    // [slots]
  int32_t* slots;     // [max_tokens, used]
};

/// What those take.
int64_t expert_buffer_bytes(const CudaExpertShape& shape);

/// Choices of streamed experts that are multiplied together. Chosen: a working memory that does not grow with
/// the pass, and enough for slots of several busy experts.
inline constexpr int64_t kStreamedChoices = 8192;

/// What streamed experts of passes of so many tokens are computed in (CudaPrefill), without the ring; a
/// little more where the pass is short.
int64_t streamed_bytes(const ModelConfig& config, int64_t pass_tokens);

CudaActivationShape activation_shape(const ModelConfig& config, const RuntimeOptions& options,
                                     int64_t multiprocessors);
CudaProductShape product_shape(const ModelConfig& config, const RuntimeOptions& options);
HandoverShape handover_shape(const ModelConfig& config, const RuntimeOptions& options);
CudaExpertShape expert_shape(const ModelConfig& config, const RuntimeOptions& options);

/// Of the backend that `options` describe on a GPU of so many multiprocessors. All bytes.
struct GpuWorkingMemory {
  int64_t activations = 0;
  int64_t handover = 0;   // tokens on their way to the experts in RAM
  int64_t experts = 0;    // of those that the GPU has
  int64_t products = 0;   // partial sums, and a piece of a matrix in bf16
  int64_t libraries = 0;  // what cuBLAS takes, at most

  [[nodiscard]] int64_t total() const { return activations + handover + experts + products + libraries; }
};
GpuWorkingMemory gpu_working_memory(const ModelConfig& config, const RuntimeOptions& options,
                                    int64_t multiprocessors);

}  // namespace sluice
