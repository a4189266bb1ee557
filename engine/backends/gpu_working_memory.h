// What the GPU backend works in beside weights and caches: shapes of its parts for a model and the bytes of
// each. Without CUDA: the backend allocates by it, and a plan counts by it for machines that are not here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "engine/backends/cuda_activations.h"
#include "engine/backends/device_layout.h"
#include "engine/backends/pass_choices.h"
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

/// Whether products take more than kMostExactTokens in bf16.
bool rounds(const CudaProductShape& shape);

struct CudaExpertShape {
  int64_t max_tokens = 0;
  int64_t d_model = 0;
  int64_t d_expert = 0;
  int64_t used = 0;
};

/// Tokens that go through the products with chosen matrices at a time. Chosen: a working memory that does
/// not grow with the batch.
inline constexpr int64_t kFewExpertTokens = 16;

/// Where CudaExperts computes.
struct CudaExpertBuffers {
  CudaExpertBuffers(const CudaExpertShape& shape, DeviceLayout& layout);
  int32_t* identity;  // [slots]: 0, 1, 2 ...
  float* hidden;      // [slots, d_expert]
  float* parts;       // [slots, d_model]
};

/// What those take.
int64_t expert_buffer_bytes(const CudaExpertShape& shape);

/// Where CudaPassExperts computes.
struct PassExpertBuffers {
  PassExpertBuffers(const PassExpertShape& shape, DeviceLayout& layout);
  uint16_t* f;        // [max_tokens, d_model] bf16: what experts read
  int32_t* ids;       // [max_tokens, used]
  float* weights;     // [max_tokens, used]
  std::byte* tables;  // PassTables
  float* gate;        // [most_choices(), d_expert]
  float* up;          // [most_choices(), d_expert]
  uint16_t* hidden;   // [most_choices(), d_expert] bf16
  float* parts;       // [most_choices(), d_model]
};

/// What those take.
int64_t pass_expert_bytes(const PassExpertShape& shape);

CudaActivationShape activation_shape(const ModelConfig& config, const RuntimeOptions& options,
                                     int64_t multiprocessors);
CudaProductShape product_shape(const ModelConfig& config, const RuntimeOptions& options);
HandoverShape handover_shape(const ModelConfig& config, const RuntimeOptions& options);
CudaExpertShape expert_shape(const ModelConfig& config, const RuntimeOptions& options);
/// Whether the GPU computes experts of few tokens that lie in its memory, for long or in a cache.
bool computes_few(const RuntimeOptions& options);
/// None where no experts meet all of a pass's tokens at once: they are neither streamed nor, of more tokens
/// than kFewExpertTokens and in bf16, in GPU memory.
std::optional<PassExpertShape> pass_expert_shape(const ModelConfig& config, const RuntimeOptions& options);

/// Of the backend that `options` describe on a GPU of so many multiprocessors, without the ring of streamed
/// experts. All bytes.
struct GpuWorkingMemory {
  int64_t activations = 0;
  int64_t handover = 0;      // tokens on their way to the experts in RAM
  int64_t experts = 0;       // of those that the GPU has, few tokens
  int64_t expert_cache = 0;  // experts in RAM that it has a second time
  int64_t pass_experts = 0;  // of those and of streamed ones, all of a pass's tokens
  int64_t products = 0;      // partial sums, and a piece of a matrix in bf16
  int64_t libraries = 0;     // what cuBLAS takes, at most

  [[nodiscard]] int64_t total() const {
    return activations + handover + experts + expert_cache + pass_experts + products + libraries;
  }
};
GpuWorkingMemory gpu_working_memory(const ModelConfig& config, const RuntimeOptions& options,
                                    int64_t multiprocessors);

}  // namespace sluice
