#include "engine/backends/cuda_products.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "kernels_cuda/elementwise.h"

namespace sluice {
namespace {

// A piece of a matrix in bf16: all of V3.2's but the FFN's of dense layers and the head fit.
constexpr int64_t kDecodedBytes = int64_t{256} << 20;
// GEMV's partial sums, and cuBLAS: 32 MiB of workspace and its kernels. Chosen, generously.
constexpr int64_t kGemvBytes = int64_t{16} << 20;
constexpr int64_t kBlasBytes = int64_t{160} << 20;

bool rounds(const CudaProductShape& shape) {
  return shape.rounding == CudaRounding::kAllowed && shape.max_tokens > cuda::kMostGemvTokens;
}

}  // namespace

CudaProducts::CudaProducts(const CudaProductShape& shape) : gemv_(shape.rows) {
  if (rounds(shape)) {
    bf16_.emplace(Bf16{cuda::MatmulScratch(shape.max_tokens, shape.cols, kDecodedBytes), cuda::Blas()});
  }
}

int64_t CudaProducts::bytes_needed(const CudaProductShape& shape) {
  const int64_t bf16 = shape.max_tokens * (shape.cols + 8) * 2 + kDecodedBytes + kBlasBytes;
  return kGemvBytes + (rounds(shape) ? bf16 : 0);
}

void CudaProducts::multiply(std::span<const CudaProduct> products, CudaRows x, cudaStream_t stream) const {
  if (x.rows <= cuda::kMostGemvTokens || !bf16_.has_value()) {
    multiply_exactly(products, x, stream);
    return;
  }
  for (const CudaProduct& product : products) {
    const cuda::MatmulRows rows{
        .x = x.data, .x_stride = x.cols, .y = product.y.data, .y_stride = product.y.cols, .n_tokens = x.rows};
    if (product.rounding == CudaRounding::kAllowed) {
      cuda::matmul(product.w, rows, bf16_->scratch, bf16_->blas, stream);
    } else if (bf16_->scratch.holds_floats(product.w)) {
      cuda::matmul_float(product.w, rows, bf16_->scratch, bf16_->blas, stream);
    } else {
      multiply_exactly({&product, 1}, x, stream);
    }
  }
}

void CudaProducts::multiply_exactly(std::span<const CudaProduct> products, CudaRows x,
                                    cudaStream_t stream) const {
  assert(static_cast<int64_t>(products.size()) <= cuda::kMostGemvProducts);
  std::array<CudaProduct, cuda::kMostGemvProducts> part;
  for (int64_t begin = 0; begin < x.rows; begin += cuda::kMostGemvTokens) {
    const int64_t n = std::min(cuda::kMostGemvTokens, x.rows - begin);
    std::ranges::transform(products, part.begin(), [&](const CudaProduct& product) {
      return CudaProduct{product.w, product.y.rows_from(begin, n), product.rounding};
    });
    multiply_few(std::span(part).first(products.size()), x.rows_from(begin, n), stream);
  }
}

// A launch takes matrices of one type and width.
void CudaProducts::multiply_few(std::span<const CudaProduct> products, CudaRows x,
                                cudaStream_t stream) const {
  std::array<bool, cuda::kMostGemvProducts> done{};
  for (size_t first = 0; first < products.size(); ++first) {
    if (done[first]) {
      continue;
    }
    std::array<cuda::GemvProduct, cuda::kMostGemvProducts> alike;
    size_t count = 0;
    for (size_t i = first; i < products.size(); ++i) {
      const CudaProduct& product = products[i];
      if (!done[i] && product.w.layout == products[first].w.layout) {
        alike[count++] = {product.w, product.y.data, product.y.cols};
        done[i] = true;
      }
    }
    cuda::gemv(std::span(alike).first(count), {x.data, x.cols, x.rows}, gemv_, stream);
  }
}

void CudaProducts::swiglu(const quant::PanelView& gate, const quant::PanelView& up, CudaRows x, CudaRows out,
                          CudaRows spare, cudaStream_t stream) const {
  if (gate.layout == up.layout && x.rows <= cuda::kMostGemvTokens) {
    cuda::gemv_swiglu(gate, {up, out.data, out.cols}, {x.data, x.cols, x.rows}, gemv_, stream);
    return;
  }
  const CudaProduct products[] = {{gate, out}, {up, spare}};
  multiply(products, x, stream);
  cuda::swiglu(out.data, spare.data, out.rows * out.cols, out.data, stream);
}

}  // namespace sluice
