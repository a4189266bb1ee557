#include "engine/backends/cuda_head_products.h"

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/blas.h"
#include "kernels_cuda/dequantize.h"
#include "kernels_cuda/elementwise.h"
#include "kernels_cuda/head_product.h"

namespace sluice {

CudaHeadProducts::Rounded CudaHeadProducts::take(const Parts& parts, DeviceLayout& layout) {
  const ModelConfig& c = parts.config;
  return {.key_b = layout.take<uint16_t>(c.heads * c.d_latent * c.d_nope),
          .value_b = layout.take<uint16_t>(c.heads * c.d_value * c.d_latent),
          .queries = layout.take<uint16_t>(parts.buffers.step * c.heads * c.d_nope)};
}

CudaHeadProducts::CudaHeadProducts(const Parts& parts, int64_t n_tokens, CacheType cache, cudaStream_t stream)
    : parts_(parts) {
  if (!rounds(n_tokens, cache)) {
    return;
  }
  const auto& memory = parts.products.bf16()->scratch.weights();
  DeviceLayout layout(memory.data(), memory.bytes());
  rounded_ = take(parts, layout);
  const auto decode = [&](const quant::PanelView& w, uint16_t* out) {
    cuda::dequantize_bf16(w, {0, cuda::head_panels(w.rows)}, out, w.layout.cols, stream);
  };
  decode(parts.layer.key_b.panels, rounded_.key_b);
  decode(parts.layer.value_b.panels, rounded_.value_b);
}

// A float32 cache is asked for where nothing shall be rounded. Heads must follow each other without the rows
// that fill a panel.
bool CudaHeadProducts::rounds(int64_t n_tokens, CacheType cache) const {
  const ModelConfig& c = parts_.config;
  const CudaProducts::Bf16* const work = parts_.products.bf16();
  if (work == nullptr || n_tokens <= kMostExactTokens || cache == CacheType::kF32 ||
      c.d_latent % quant::kPanelRows != 0 || c.d_value % quant::kPanelRows != 0 || c.d_nope % 8 != 0) {
    return false;
  }
  DeviceLayout counted;
  static_cast<void>(take(parts_, counted));
  return counted.taken() <= work->scratch.weights().bytes();
}

void CudaHeadProducts::absorb(const float* queries, int64_t n, cudaStream_t stream) const {
  is_rounded() ? absorb_rounded(queries, n, stream) : absorb_exactly(queries, n, stream);
}

void CudaHeadProducts::expand(float* values, int64_t n, cudaStream_t stream) const {
  is_rounded() ? expand_rounded(values, n, stream) : expand_exactly(values, n, stream);
}

void CudaHeadProducts::absorb_exactly(const float* queries, int64_t n, cudaStream_t stream) const {
  const ModelConfig& c = parts_.config;
  float* const absorbed = parts_.buffers.absorbed_query;
  cuda::head_product({.w = parts_.layer.key_b.panels,
                      .heads = c.heads,
                      .rows = parts_.layer.key_b.rows,
                      .n_tokens = n,
                      .x = queries,
                      .x_stride = c.heads * c.d_head(),
                      .x_head_stride = c.d_head(),
                      .y = absorbed,
                      .y_stride = c.heads * c.d_cache(),
                      .y_head_stride = c.d_cache()},
                     stream);
  const auto bytes = [](int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); };
  cuda::check(
      cudaMemcpy2DAsync(absorbed + c.d_latent, bytes(c.d_cache()), queries + c.d_nope, bytes(c.d_head()),
                        bytes(c.d_rope), static_cast<size_t>(n * c.heads), cudaMemcpyDeviceToDevice, stream),
      "copying the queries' rope part");
}

void CudaHeadProducts::absorb_rounded(const float* queries, int64_t n, cudaStream_t stream) const {
  const ModelConfig& c = parts_.config;
  auto* const absorbed = reinterpret_cast<uint16_t*>(parts_.buffers.absorbed_query);
  const auto round = [&](const float* from, uint16_t* to, int64_t stride, int64_t dims) {
    cuda::to_bf16(
        {.x = from, .x_stride = c.d_head(), .y = to, .y_stride = stride, .rows = n * c.heads, .n = dims},
        stream);
  };
  round(queries, rounded_.queries, c.d_nope, c.d_nope);
  round(queries + c.d_nope, absorbed + c.d_latent, c.d_cache(), c.d_rope);
  parts_.products.bf16()->blas.multiply(cuda::BlasBatch{.w = rounded_.key_b,
                                                        .w_stride = c.d_nope,
                                                        .w_matrix_stride = c.d_latent * c.d_nope,
                                                        .x = rounded_.queries,
                                                        .x_stride = c.heads * c.d_nope,
                                                        .x_matrix_stride = c.d_nope,
                                                        .y = absorbed,
                                                        .y_stride = c.heads * c.d_cache(),
                                                        .y_matrix_stride = c.d_cache(),
                                                        .m = c.d_latent,
                                                        .n = n,
                                                        .k = c.d_nope,
                                                        .count = c.heads,
                                                        .scale = parts_.layer.key_b.panels.scale},
                                        stream);
}

void CudaHeadProducts::expand_exactly(float* values, int64_t n, cudaStream_t stream) const {
  const ModelConfig& c = parts_.config;
  cuda::head_product({.w = parts_.layer.value_b.panels,
                      .heads = c.heads,
                      .rows = parts_.layer.value_b.rows,
                      .n_tokens = n,
                      .x = parts_.buffers.attended,
                      .x_stride = c.heads * c.d_latent,
                      .x_head_stride = c.d_latent,
                      .y = values,
                      .y_stride = c.heads * c.d_value,
                      .y_head_stride = c.d_value},
                     stream);
}

void CudaHeadProducts::expand_rounded(float* values, int64_t n, cudaStream_t stream) const {
  const ModelConfig& c = parts_.config;
  parts_.products.bf16()->blas.multiply(
      cuda::BlasFloatBatch{.w = rounded_.value_b,
                           .w_stride = c.d_latent,
                           .w_matrix_stride = c.d_value * c.d_latent,
                           .x = reinterpret_cast<const uint16_t*>(parts_.buffers.attended),
                           .x_stride = c.heads * c.d_latent,
                           .x_matrix_stride = c.d_latent,
                           .y = values,
                           .y_stride = c.heads * c.d_value,
                           .y_matrix_stride = c.d_value,
                           .m = c.d_value,
                           .n = n,
                           .k = c.d_latent,
                           .count = c.heads,
                           .scale = parts_.layer.value_b.panels.scale},
      stream);
}

}  // namespace sluice
