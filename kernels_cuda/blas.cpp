#include "kernels_cuda/blas.h"

#include <cublas_v2.h>

#include <string_view>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/launch_names.h"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

/// What cuBLAS's documentation recommends for Hopper; other GPUs want less.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

void check_blas(cublasStatus_t status, std::string_view what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw Error(what, "success", cublasGetStatusName(status));
}

}  // namespace

struct Blas::State {
  cublasHandle_t handle = nullptr;
  DeviceBuffer<std::byte> workspace{kWorkspaceBytes};  // its own, so that captured graphs may replay

  State() {
    check_blas(cublasCreate(&handle), "cublasCreate");
    check_blas(cublasSetMathMode(handle, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION),
               "cublasSetMathMode");
  }
  ~State() {
    if (handle != nullptr) static_cast<void>(cublasDestroy(handle));
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Blas::Blas() : state_(std::make_unique<State>()) {}
Blas::~Blas() = default;
Blas::Blas(Blas&&) noexcept = default;
Blas& Blas::operator=(Blas&&) noexcept = default;

void Blas::use(cudaStream_t stream) const {
  note_launch("cuBLAS");
  check_blas(cublasSetStream(state_->handle, stream), "cublasSetStream");
  check_blas(
      cublasSetWorkspace(state_->handle, state_->workspace.data(), static_cast<size_t>(kWorkspaceBytes)),
      "cublasSetWorkspace");
}

void Blas::multiply(const BlasFloatProduct& p, cudaStream_t stream) const {
  use(stream);
  const float zero = 0.0F;
  check_blas(
      cublasSgemm(state_->handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(p.m), static_cast<int>(p.n),
                  static_cast<int>(p.k), &p.scale, p.w, static_cast<int>(p.w_stride), p.x,
                  static_cast<int>(p.x_stride), &zero, p.y, static_cast<int>(p.y_stride)),
      "cublasSgemm");
}

void Blas::multiply(const BlasProduct& p, cudaStream_t stream) const {
  use(stream);
  const float zero = 0.0F;
  // cuBLAS is column-major: what it calls C [m, n] is y transposed.
  check_blas(
      cublasGemmEx(state_->handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(p.m), static_cast<int>(p.n),
                   static_cast<int>(p.k), &p.scale, p.w, CUDA_R_16BF, static_cast<int>(p.w_stride), p.x,
                   CUDA_R_16BF, static_cast<int>(p.x_stride), &zero, p.y, CUDA_R_32F,
                   static_cast<int>(p.y_stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "cublasGemmEx");
}

template <typename Y>
void Blas::multiply_batch(const BlasBatchOf<Y>& p, cudaStream_t stream) const {
  use(stream);
  const float zero = 0.0F;
  const auto w_form = p.weights == BlasBatchOf<Y>::Weights::kRows ? CUBLAS_OP_T : CUBLAS_OP_N;
  constexpr auto kYType = sizeof(Y) == sizeof(float) ? CUDA_R_32F : CUDA_R_16BF;
  check_blas(cublasGemmStridedBatchedEx(state_->handle, w_form, CUBLAS_OP_N, static_cast<int>(p.m),
                                        static_cast<int>(p.n), static_cast<int>(p.k), &p.scale, p.w,
                                        CUDA_R_16BF, static_cast<int>(p.w_stride), p.w_matrix_stride, p.x,
                                        CUDA_R_16BF, static_cast<int>(p.x_stride), p.x_matrix_stride, &zero,
                                        p.y, kYType, static_cast<int>(p.y_stride), p.y_matrix_stride,
                                        static_cast<int>(p.count), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
             "cublasGemmStridedBatchedEx");
}

void Blas::multiply(const BlasBatch& batch, cudaStream_t stream) const {
  multiply_batch(batch, stream);
}
void Blas::multiply(const BlasFloatBatch& batch, cudaStream_t stream) const {
  multiply_batch(batch, stream);
}

}  // namespace sluice::cuda
