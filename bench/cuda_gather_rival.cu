#include "bench/cuda_gather_rival.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "bench/cuda_attention_cases.h"
#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/block.cuh"

namespace sluice::bench {
namespace {

using cuda::check_launch;
using cuda::MlaParams;

constexpr int kRows = kSelectedRows;
constexpr int kDims = kLatentDims + kRopeDims;
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS's documentation recommends for Hopper

void check_blas(cublasStatus_t status, std::string_view what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw Error(what, "success", cublasGetStatusName(status));
}

// --- gather ---

constexpr int kPieces = kDims * 2 / 16;  // of 16 bytes in a row: 72
constexpr int kRowsAtOnce = 4;           // of a block: 288 threads, nine whole warps
constexpr int kRowsPerThread = 4;        // pieces of as many rows are under way in a thread
constexpr int kRowsPerBlock = kRowsAtOnce * kRowsPerThread;
static_assert(kDims * 2 % 16 == 0 && kPieces * kRowsAtOnce % 32 == 0 && kRows % kRowsPerBlock == 0);

/// gathered[i] = rows[selected[i]], i < kRowsPerBlock * gridDim.x. Block: [kRowsAtOnce][kPieces] threads.
__global__ void __launch_bounds__(kPieces* kRowsAtOnce)
    gather_rows(const uint4* rows, const int32_t* selected, uint4* gathered) {
  const int64_t first = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.y;
  uint4 pieces[kRowsPerThread];
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    const int64_t row = selected[first + i * kRowsAtOnce];
    pieces[i] = __ldg(rows + row * kPieces + threadIdx.x);
  }
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    gathered[(first + i * kRowsAtOnce) * kPieces + threadIdx.x] = pieces[i];
  }
}

// --- softmax ---

constexpr int kSoftmaxWarps = 8;
static_assert(kHeads % kSoftmaxWarps == 0);

/// The values of 16 bytes.
__device__ __forceinline__ void load_scores(float (&to)[4], const float* from) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x;
  to[1] = v.y;
  to[2] = v.z;
  to[3] = v.w;
}

__device__ __forceinline__ void load_scores(float (&to)[8], const __nv_bfloat16* from) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
  }
}

/// to[i] = factor * from[i], in one store of 8 or 16 bytes.
template <int kCount>
__device__ __forceinline__ void store_bf16(__nv_bfloat16* to, const float (&from)[kCount], float factor) {
  struct alignas(2 * kCount) Values {
    __nv_bfloat162 pairs[kCount / 2];
  } values;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    values.pairs[i] = __floats2bfloat162_rn(factor * from[2 * i], factor * from[2 * i + 1]);
  }
  *reinterpret_cast<Values*>(to) = values;
}

/// Each row of scores, [kSoftmaxWarps * gridDim.x, kRows] to the base 2, becomes kRows probabilities of bf16
/// at the row's begin. A warp has a row, all of it in registers before the first store.
template <typename Score>
__global__ void __launch_bounds__(32 * kSoftmaxWarps) softmax_rows(Score* scores) {
  constexpr int kPerLoad = 16 / sizeof(Score);
  constexpr int kLoads = kRows / (32 * kPerLoad);
  Score* row = scores + (int64_t{blockIdx.x} * kSoftmaxWarps + threadIdx.x / 32) * kRows;
  const int first = static_cast<int>(threadIdx.x) % 32 * kPerLoad;
  float values[kLoads][kPerLoad];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) load_scores(values[i], row + first + i * 32 * kPerLoad);
  float max = -INFINITY;
#pragma unroll
  for (const auto& some : values) {
#pragma unroll
    for (const float value : some) max = fmaxf(max, value);
  }
  max = cuda::combine_warp(max, [](float a, float b) { return fmaxf(a, b); });
  float sum = 0.0F;
#pragma unroll
  for (auto& some : values) {
#pragma unroll
    for (float& value : some) {
      value = exp2f(value - max);
      sum += value;
    }
  }
  sum = cuda::combine_warp(sum, [](float a, float b) { return a + b; });
  auto* probabilities = reinterpret_cast<__nv_bfloat16*>(row) + first;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) store_bf16(probabilities + i * 32 * kPerLoad, values[i], 1.0F / sum);
}

// --- products ---

/// C [m, n] = factor * op(A) [m, k] B [k, n] as cuBLAS counts: element (row, column) of a stored matrix lies
/// at row + column * ld, and op may transpose what is stored.
struct ProductShape {
  cublasOperation_t op_a;
  int m;
  int n;
  int k;
  int lda;
  int ldb;
  int ldc;

  /// Where element (i, l) of op(A), (l, j) of B, (i, j) of C lies.
  [[nodiscard]] constexpr int64_t a_at(int64_t i, int64_t l) const {
    return op_a == CUBLAS_OP_T ? l + i * lda : i + l * lda;
  }
  [[nodiscard]] constexpr int64_t b_at(int64_t l, int64_t j) const { return l + j * ldb; }
  [[nodiscard]] constexpr int64_t c_at(int64_t i, int64_t j) const { return i + j * ldc; }
};

// A row-major matrix [r, c] is [c, r] to cuBLAS, with c as its leading dimension. So it is asked for the
// transposed: scores^T [kRows, kHeads] = rows queries^T, where it reads the rows as [kDims, kRows] (op:
// transposed) and the queries as [kDims, kHeads] (as is) ..
constexpr ProductShape kScores{
    .op_a = CUBLAS_OP_T, .m = kRows, .n = kHeads, .k = kDims, .lda = kDims, .ldb = kDims, .ldc = kRows};
static_assert(kScores.a_at(5, 7) == 5 * kDims + 7);  // dimension 7 of row 5
static_assert(kScores.b_at(7, 3) == 3 * kDims + 7);  // dimension 7 of head 3's query
static_assert(kScores.c_at(5, 3) == 3 * kRows + 5);  // head 3's score of row 5

// .. and out^T [kLatentDims, kHeads] = latent^T probabilities^T, where the latent columns are the first
// kLatentDims of what it reads as [kDims, kRows] (as is), and the probabilities are [kRows, kHeads] to it (as
// is). Those of a head begin where its scores began.
constexpr ProductShape output_shape(int score_bytes) {
  return {.op_a = CUBLAS_OP_N,
          .m = kLatentDims,
          .n = kHeads,
          .k = kRows,
          .lda = kDims,
          .ldb = kRows * score_bytes / 2,
          .ldc = kLatentDims};
}
static_assert(output_shape(2).a_at(7, 5) == 5 * kDims + 7);              // latent column 7 of row 5
static_assert(output_shape(2).b_at(5, 3) == 3 * kRows + 5);              // head 3's probability of row 5,
static_assert(2 * output_shape(4).b_at(5, 3) == 4 * 3 * kRows + 2 * 5);  // in bytes behind scores of float32
static_assert(output_shape(2).c_at(7, 3) == 3 * kLatentDims + 7);        // column 7 of head 3's output

struct Operands {
  const void* a;  // [n_queries, kRows, kDims], row-major: the gathered rows, in both products
  const void* b;  // [n_queries, kHeads, ldb]
  void* c;        // [n_queries, kHeads, ldc]
  cudaDataType c_type;
  float factor;
};

void multiply(cublasHandle_t blas, const ProductShape& shape, const Operands& of, int64_t n_queries) {
  const float zero = 0.0F;
  check_blas(cublasGemmStridedBatchedEx(blas, shape.op_a, CUBLAS_OP_N, shape.m, shape.n, shape.k, &of.factor,
                                        of.a, CUDA_R_16BF, shape.lda, int64_t{kRows} * kDims, of.b,
                                        CUDA_R_16BF, shape.ldb, int64_t{kHeads} * shape.ldb, &zero, of.c,
                                        of.c_type, shape.ldc, int64_t{kHeads} * shape.ldc,
                                        static_cast<int>(n_queries), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
             "cublasGemmStridedBatchedEx");
}

// --- a chunk ---

int bytes_of(ScoreType type) {
  return type == ScoreType::kF32 ? 4 : 2;
}

void check_params(const MlaParams& p) {
  const auto require = [](bool holds, std::string_view what, int64_t found) {
    if (!holds) throw Error("gather + cuBLAS", what, std::to_string(found));
  };
  require(p.n_heads == kHeads, "128 heads", p.n_heads);
  require(p.d_latent == kLatentDims && p.d_rope == kRopeDims, "rows of 512 + 64", p.d_latent + p.d_rope);
  require(p.query_type == cuda::FloatType::kBf16, "bf16 queries", static_cast<int64_t>(p.query_type));
  require(p.out_type == cuda::FloatType::kBf16, "bf16 output", static_cast<int64_t>(p.out_type));
  require(p.rows.format == cuda::LatentFormat::kBf16, "bf16 rows", static_cast<int64_t>(p.rows.format));
  require(p.rows.row_bytes == 2 * kDims, "rows of 1152 bytes", p.rows.row_bytes);
  require(p.selected != nullptr && p.selected_stride == kRows, "2048 selected rows a query",
          p.selected_stride);
}

/// Queries [first, first + count) of a call.
MlaParams chunk_of(MlaParams p, int64_t first, int64_t count) {
  p.n_queries = count;
  p.queries = static_cast<const uint16_t*>(p.queries) + first * kHeads * kDims;
  p.selected += first * kRows;
  p.out = static_cast<uint16_t*>(p.out) + first * kHeads * kLatentDims;
  return p;
}

void launch_gather(const MlaParams& chunk, uint16_t* gathered, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(chunk.n_queries * kRows / kRowsPerBlock);
  gather_rows<<<blocks, dim3(kPieces, kRowsAtOnce), 0, stream>>>(
      static_cast<const uint4*>(chunk.rows.data), chunk.selected, reinterpret_cast<uint4*>(gathered));
  check_launch("gather_rows");
}

template <typename Score>
void launch_softmax(std::byte* scores, int64_t n_queries, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(n_queries * kHeads / kSoftmaxWarps);
  softmax_rows<<<blocks, 32 * kSoftmaxWarps, 0, stream>>>(reinterpret_cast<Score*>(scores));
  check_launch("softmax_rows");
}

}  // namespace

GatherBlas::GatherBlas() : workspace_(kWorkspaceBytes) {
  check_blas(cublasCreate(&handle_), "cublasCreate");
}

GatherBlas::~GatherBlas() {
  if (handle_ != nullptr) static_cast<void>(cublasDestroy(handle_));
}

cublasHandle_t GatherBlas::use(cudaStream_t stream) const {
  check_blas(cublasSetStream(handle_, stream), "cublasSetStream");  // forgets the workspace
  check_blas(cublasSetWorkspace(handle_, workspace_.data(), static_cast<size_t>(kWorkspaceBytes)),
             "cublasSetWorkspace");
  return handle_;
}

GatherRival::GatherRival(int64_t chunk, ScoreType scores)
    : chunk_(chunk),
      score_type_(scores),
      gathered_(chunk * kRows * kDims),
      scores_(chunk * kHeads * kRows * bytes_of(scores)) {}

void GatherRival::launch(const MlaParams& params, GatherPart last, cudaStream_t stream) const {
  check_params(params);
  for (int64_t first = 0; first < params.n_queries; first += chunk_) {
    launch_chunk(chunk_of(params, first, std::min(chunk_, params.n_queries - first)), last, stream);
  }
}

void GatherRival::launch_chunk(const MlaParams& chunk, GatherPart last, cudaStream_t stream) const {
  constexpr float kLog2E = 1.44269504F;  // the softmax has powers of 2
  const bool is_f32 = score_type_ == ScoreType::kF32;
  launch_gather(chunk, gathered_.data(), stream);
  if (last < GatherPart::kScores) return;
  multiply(blas_.use(stream), kScores,
           {gathered_.data(), chunk.queries, scores_.data(), is_f32 ? CUDA_R_32F : CUDA_R_16BF,
            chunk.softmax_scale * kLog2E},
           chunk.n_queries);
  if (last < GatherPart::kSoftmax) return;
  if (is_f32) {
    launch_softmax<float>(scores_.data(), chunk.n_queries, stream);
  } else {
    launch_softmax<__nv_bfloat16>(scores_.data(), chunk.n_queries, stream);
  }
  if (last < GatherPart::kOutput) return;
  multiply(blas_.use(stream), output_shape(bytes_of(score_type_)),
           {gathered_.data(), scores_.data(), chunk.out, CUDA_R_16BF, 1.0F}, chunk.n_queries);
}

}  // namespace sluice::bench
