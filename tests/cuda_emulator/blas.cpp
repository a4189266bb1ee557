// The products of cuBLAS that the project calls, as its manual defines them: column-major, C = alpha op(A)
// op(B)
// + beta C, of float32 or of bf16 with float32 sums, in the handle's stream. Plain loops.
#include <cublas_v2.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/cuda_emulator/failure.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/stream.h"

using namespace sluice::emulator;  // this file is the emulator's face

// NOLINTNEXTLINE(readability-identifier-naming): CUDA's name
struct cublasContext {
  cudaStream_t stream = nullptr;
};

namespace {

/// A matrix where it lies: column-major, `stride` elements from one column to the next.
struct Matrix {
  const void* data;
  cudaDataType type;  // CUDA_R_32F or CUDA_R_16BF
  int64_t stride;
  bool transposed;

  [[nodiscard]] float at(int64_t row, int64_t col) const {
    const int64_t i = transposed ? row * stride + col : col * stride + row;
    if (type == CUDA_R_32F) return static_cast<const float*>(data)[i];
    return std::bit_cast<float>(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[i]) << 16);
  }
};

/// To nearest, ties to even; NaN stays NaN.
uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

struct Product {
  int64_t m;
  int64_t n;
  int64_t k;
  Matrix a;  // op(a) [m, k]
  Matrix b;  // op(b) [k, n]
  void* c;   // [m, n]
  cudaDataType c_type;
  int64_t c_stride;
  float alpha;
  float beta;
};

/// Sums side by side, as any order of them is cuBLAS's.
float dot(const float* x, const float* y, size_t n) {
  constexpr size_t kSums = 16;
  std::array<float, kSums> sums{};
  size_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (size_t s = 0; s < kSums; ++s) sums[s] += x[i + s] * y[i + s];
  }
  for (; i < n; ++i) sums[i % kSums] += x[i] * y[i];
  float total = 0.0F;
  for (const float sum : sums) total += sum;
  return total;
}

/// C is not read where beta is 0: it may be anything.
void store(const Product& p, int64_t row, int64_t col, float sum) {
  const int64_t i = col * p.c_stride + row;
  const Matrix before{p.c, p.c_type, p.c_stride, false};
  const float value = p.alpha * sum + (p.beta == 0.0F ? 0.0F : p.beta * before.at(row, col));
  if (p.c_type == CUDA_R_32F) {
    static_cast<float*>(p.c)[i] = value;
  } else {
    static_cast<uint16_t*>(p.c)[i] = to_bf16(value);
  }
}

void multiply(const Product& p) {
  const auto k = static_cast<size_t>(p.k);
  std::vector<float> rows(static_cast<size_t>(p.m) * k);  // of op(a)
  for (int64_t row = 0; row < p.m; ++row) {
    for (int64_t i = 0; i < p.k; ++i) rows[static_cast<size_t>(row * p.k + i)] = p.a.at(row, i);
  }
  std::vector<float> column(k);  // of op(b)
  for (int64_t col = 0; col < p.n; ++col) {
    for (int64_t i = 0; i < p.k; ++i) column[static_cast<size_t>(i)] = p.b.at(i, col);
    for (int64_t row = 0; row < p.m; ++row) {
      store(p, row, col, dot(rows.data() + row * p.k, column.data(), k));
    }
  }
}

bool is_known(cudaDataType type) {
  return type == CUDA_R_32F || type == CUDA_R_16BF;
}

/// Whether `stride` reaches over a column of op^-1(matrix), which has so many rows and columns after op.
bool reaches(const Matrix& matrix, int64_t rows, int64_t cols) {
  return matrix.stride >= std::max<int64_t>(1, matrix.transposed ? cols : rows);
}

cublasStatus_t check(const Product& p) {
  const bool shape = p.m >= 0 && p.n >= 0 && p.k >= 0 && reaches(p.a, p.m, p.k) && reaches(p.b, p.k, p.n) &&
                     p.c_stride >= std::max<int64_t>(1, p.m);
  if (!shape) return CUBLAS_STATUS_INVALID_VALUE;
  const bool types = is_known(p.a.type) && p.a.type == p.b.type && is_known(p.c_type) &&
                     (p.a.type == CUDA_R_16BF || p.c_type == CUDA_R_32F);
  return types ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t put_product(cublasHandle_t handle, const Product& p) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (const cublasStatus_t wrong = check(p); wrong != CUBLAS_STATUS_SUCCESS) return wrong;
  if (p.m == 0 || p.n == 0) return CUBLAS_STATUS_SUCCESS;
  const cudaError_t result = put(handle->stream, {.work = [p] { multiply(p); }, .event = nullptr});
  return told(result) == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

bool is_operation(cublasOperation_t op) {
  return op == CUBLAS_OP_N || op == CUBLAS_OP_T;
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = std::make_unique<cublasContext>().release();
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  static_cast<void>(std::unique_ptr<cublasContext>(handle));
  return handle == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  const bool fits = place_of(workspace, bytes) == Place::kDevice;
  return fits ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t /*mode*/) {
  return handle == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;  // sums are float32
}

const char* cublasGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "a status that the emulated GPU does not know";
  }
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                           int n, int k, const float* alpha, const float* a, int a_stride, const float* b,
                           int b_stride, const float* beta, float* c, int c_stride) {
  return cublasGemmEx(handle, op_a, op_b, m, n, k, alpha, a, CUDA_R_32F, a_stride, b, CUDA_R_32F, b_stride,
                      beta, c, CUDA_R_32F, c_stride, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                            int n, int k, const void* alpha, const void* a, cudaDataType a_type, int a_stride,
                            const void* b, cudaDataType b_type, int b_stride, const void* beta, void* c,
                            cudaDataType c_type, int c_stride, cublasComputeType_t compute,
                            cublasGemmAlgo_t /*algorithm*/) {
  if (!is_operation(op_a) || !is_operation(op_b)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (compute != CUBLAS_COMPUTE_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  return put_product(handle, {.m = m,
                              .n = n,
                              .k = k,
                              .a = {a, a_type, a_stride, op_a == CUBLAS_OP_T},
                              .b = {b, b_type, b_stride, op_b == CUBLAS_OP_T},
                              .c = c,
                              .c_type = c_type,
                              .c_stride = c_stride,
                              .alpha = *static_cast<const float*>(alpha),
                              .beta = *static_cast<const float*>(beta)});
}

}  // extern "C"
