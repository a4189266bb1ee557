// Latent attention: which kernel, its launch, and the merge of splits.
#include "kernels_cuda/mla.h"

#include <string>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/mla_attend.cuh"
#include "kernels_cuda/device/mla_plain.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

using device::kLatent;
using device::MlaArgs;
using device::MlaShape;

// A block of mla_merge: every thread has a piece of eight columns (device::part_column) and each fourth
// split.
constexpr int kMergeColumns = 8;
constexpr int kMergeGroups = 4;
constexpr int kMergeGroupThreads = kLatent / kMergeColumns;
constexpr int kMergeThreads = kMergeGroups * kMergeGroupThreads;
constexpr int kSplitsPerLane = kMostMlaSplits / 32;

struct MergeArgs {
  const __nv_bfloat16* parts;  // [n_queries, splits, n_heads, 512], columns in the order of part_column
  const float* log_sum_exp_2;  // [n_queries, splits, n_heads]
  void* out;
  float* log_sum_exp;
  int n_heads;
  int splits;
  FloatType out_type;
};

/// Weights of a head's splits, lane l having those of l, l + 32, ..: 2^(lse - lse of all); 0 for an empty
/// split. Returns the log-sum-exp of all, to the base 2. `first` is the head's place in the first split.
__device__ float merge_weights(float (&weights)[kSplitsPerLane], const MergeArgs& args, int64_t first) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float max = -INFINITY;
#pragma unroll
  for (int i = 0; i < kSplitsPerLane; ++i) {
    const int s = lane + 32 * i;
    weights[i] = s < args.splits ? args.log_sum_exp_2[first + int64_t{s} * args.n_heads] : -INFINITY;
    max = fmaxf(max, weights[i]);
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    max = fmaxf(max, __shfl_xor_sync(0xFFFFFFFFU, max, distance));
  }
  float sum = 0.0F;
#pragma unroll
  for (float& weight : weights) {
    weight = max == -INFINITY ? 0.0F : exp2f(weight - max);
    sum += weight;
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, distance);
  }
#pragma unroll
  for (float& weight : weights) {
    weight = sum > 0.0F ? weight / sum : 0.0F;
  }
  return sum > 0.0F ? max + log2f(sum) : -INFINITY;
}

/// sum += weight * eight bf16.
__device__ void add_part(float (&sum)[kMergeColumns], float weight, const uint4& part) {
  const uint32_t words[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum[2 * i] = fmaf(weight, __uint_as_float(words[i] << 16), sum[2 * i]);
    sum[2 * i + 1] = fmaf(weight, __uint_as_float(words[i] & 0xFFFF0000U), sum[2 * i + 1]);
  }
}

/// The columns of piece `piece` of a head; `first` is the place of the head's first column in `out`.
__device__ void write_columns(void* out, FloatType type, int64_t first, int piece,
                              const float (&sum)[kMergeColumns]) {
#pragma unroll
  for (int i = 0; i < kMergeColumns / 2; ++i) {
    const int64_t at = first + device::part_column(piece, i);
    if (type == FloatType::kF32) {
      *reinterpret_cast<float2*>(static_cast<float*>(out) + at) = make_float2(sum[2 * i], sum[2 * i + 1]);
    } else {
      *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(out) + at) =
          device::two_bf16(sum[2 * i], sum[2 * i + 1]);
    }
  }
}

constexpr int kLoads = 32 / kMergeGroups;

/// Splits `split`, `split` + kMergeGroups, ..: past the last one that again, of weight 0.
__device__ void load_parts(uint4 (&parts)[kLoads], const MergeArgs& args, int64_t first, int split,
                           int place) {
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int s = min(split + kMergeGroups * i, args.splits - 1);
    parts[i] = __ldg(
        reinterpret_cast<const uint4*>(args.parts + (first + int64_t{s} * args.n_heads) * kLatent) + place);
  }
}

/// Grid: x = query * heads + head.
__global__ void __launch_bounds__(kMergeThreads) mla_merge(const MergeArgs args) {
  __shared__ float others[kMergeGroups - 1][kMergeGroupThreads][kMergeColumns];
  const int64_t first =
      blockIdx.x / args.n_heads * int64_t{args.splits} * args.n_heads + blockIdx.x % args.n_heads;
  const int group = static_cast<int>(threadIdx.x) / kMergeGroupThreads;
  const int place = static_cast<int>(threadIdx.x) % kMergeGroupThreads;
  uint4 parts[kLoads];
  follow_last();
  load_parts(parts, args, first, group, place);  // while the weights are computed
  float weights[kSplitsPerLane];
  const float log_sum_exp_2 = merge_weights(weights, args, first);
  float sum[kMergeColumns] = {};
#pragma unroll
  for (int round = 0; round < kSplitsPerLane; ++round) {
    if (32 * round < args.splits) {
      if (round > 0) {
        load_parts(parts, args, first, 32 * round + group, place);
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        add_part(sum, __shfl_sync(0xFFFFFFFFU, weights[round], group + kMergeGroups * i), parts[i]);
      }
    }
  }
  if (group > 0) {
    memcpy(others[group - 1][place], sum, sizeof sum);
  }
  __syncthreads();
  if (group > 0) {
    return;
  }
#pragma unroll
  for (const auto& other : others) {
#pragma unroll
    for (int i = 0; i < kMergeColumns; ++i) {
      sum[i] += other[place][i];
    }
  }
  write_columns(args.out, args.out_type, int64_t{blockIdx.x} * kLatent, place, sum);
  if (threadIdx.x == 0 && args.log_sum_exp != nullptr) {
    args.log_sum_exp[blockIdx.x] = log_sum_exp_2 * 0.69314718F;
  }
}

void check_params(const MlaParams& p) {
  const auto require = [](bool holds, const char* what, int64_t found) {
    if (!holds) {
      throw Error("attention on the GPU", what, std::to_string(found));
    }
  };
  require(p.n_queries >= 0 && p.n_queries * p.n_heads < (int64_t{1} << 31), "n_queries x n_heads below 2^31",
          p.n_queries);
  require(p.n_heads >= 1, "a head or more", p.n_heads);
  require(p.rows.n_rows < (int64_t{1} << 31), "fewer than 2^31 rows", p.rows.n_rows);
  require(p.rows.row_bytes >= latent_row_bytes(p.rows.format, p.d_latent, p.d_rope),
          "row_bytes of a whole row or more", p.rows.row_bytes);
  require(p.rows.row_bytes < (int64_t{1} << 32), "row_bytes below 2^32", p.rows.row_bytes);
  require(reinterpret_cast<uintptr_t>(p.queries) % 16 == 0 || !mla_is_fast(p), "queries aligned to 16 bytes",
          static_cast<int64_t>(reinterpret_cast<uintptr_t>(p.queries) % 16));
  require(p.plan.splits >= 1 && p.plan.splits <= kMostMlaSplits, "1 to 128 splits", p.plan.splits);
  require(p.plan.splits == 1 || p.scratch != nullptr || !mla_is_fast(p), "scratch for the splits",
          p.plan.splits);
  require(p.counts != nullptr, "counts", 0);
}

template <typename Shape>
void launch_fast(MlaArgs args, int64_t n_queries, cudaStream_t stream) {
  constexpr const char* kName = "mla_attend";
  auto* kernel = device::mla_attend<Shape>;
  constexpr auto kShared = static_cast<int64_t>(sizeof(device::MlaShared<Shape>));
  allow_shared<kShared>(kernel, kName);
  const auto queries = static_cast<unsigned>(n_queries);
  const auto splits = static_cast<unsigned>(args.splits);
  const auto head_blocks = static_cast<unsigned>(ceil_div(args.n_heads, Shape::kHeads));
  const dim3 grid = Shape::kIsRing ? dim3(queries * head_blocks, splits) : dim3(queries, splits, head_blocks);
  args.list_split_rows = device::split_rows<Shape>(static_cast<int>(args.selected_stride), args.splits);
  launch_overlapping(
      kernel, kName,
      {.grid = grid, .block = dim3(Shape::kThreads), .shared_bytes = kShared, .stream = stream}, args);
}

template <LatentFormat kFormat>
void launch_tiles(const MlaArgs& args, const MlaParams& p, cudaStream_t stream) {
  if (p.plan.tiles == MlaPlan::Tiles::kHeads64Rows16) {
    launch_fast<MlaShape<2, 1, kFormat>>(args, p.n_queries, stream);
  } else {
    launch_fast<MlaShape<1, 2, kFormat>>(args, p.n_queries, stream);
  }
}

void launch_merge(const MlaArgs& from, const MlaParams& p, cudaStream_t stream) {
  const MergeArgs args{.parts = static_cast<const __nv_bfloat16*>(from.out),
                       .log_sum_exp_2 = from.log_sum_exp,
                       .out = p.out,
                       .log_sum_exp = p.log_sum_exp,
                       .n_heads = from.n_heads,
                       .splits = from.splits,
                       .out_type = p.out_type};
  launch_overlapping(mla_merge, "mla_merge",
                     {.grid = dim3(static_cast<unsigned>(p.n_queries * p.n_heads)),
                      .block = dim3(kMergeThreads),
                      .stream = stream},
                     args);
}

void launch_whole(const MlaParams& p, cudaStream_t stream) {
  constexpr float kLog2E = 1.44269504F;
  const bool is_split = p.plan.splits > 1;
  auto* sums = static_cast<__nv_bfloat16*>(p.scratch);
  auto* split_lse = reinterpret_cast<float*>(sums + p.n_queries * p.plan.splits * p.n_heads * kLatent);
  const MlaArgs args{.queries = p.queries,
                     .rows = static_cast<const uint8_t*>(p.rows.data),
                     .selected = p.selected,
                     .counts = p.counts,
                     .out = is_split ? p.scratch : p.out,
                     .log_sum_exp = is_split ? split_lse : p.log_sum_exp,
                     .row_bytes = p.rows.row_bytes,
                     .selected_stride = p.selected_stride,
                     .n_rows = static_cast<uint32_t>(p.rows.n_rows),
                     .n_heads = static_cast<int>(p.n_heads),
                     .splits = static_cast<int>(p.plan.splits),
                     .scale_log2 = p.softmax_scale * kLog2E,
                     .query_type = p.query_type,
                     .out_type = p.out_type};
  if (p.rows.format == LatentFormat::kBf16) {
    launch_tiles<LatentFormat::kBf16>(args, p, stream);
  } else {
    launch_tiles<LatentFormat::kFp8>(args, p, stream);
  }
  if (is_split) {
    launch_merge(args, p, stream);
  }
}

void launch_plain(const MlaParams& p, cudaStream_t stream) {
  constexpr int64_t kMostPlainShared = 48 * 1024 - 4096;  // without opting in, less the static part
  const int64_t shared = device::plain_shared_bytes(p.d_latent, p.d_rope);
  if (shared > kMostPlainShared) {
    throw Error("attention on the GPU", "2 d_latent + d_rope of at most 11264", std::to_string(shared / 4));
  }
  const device::PlainArgs args{.queries = p.queries,
                               .rows = static_cast<const uint8_t*>(p.rows.data),
                               .selected = p.selected,
                               .counts = p.counts,
                               .out = p.out,
                               .log_sum_exp = p.log_sum_exp,
                               .row_bytes = p.rows.row_bytes,
                               .selected_stride = p.selected_stride,
                               .n_rows = static_cast<uint32_t>(p.rows.n_rows),
                               .n_heads = static_cast<int>(p.n_heads),
                               .d_latent = static_cast<int>(p.d_latent),
                               .d_rope = static_cast<int>(p.d_rope),
                               .softmax_scale = p.softmax_scale,
                               .format = p.rows.format,
                               .query_type = p.query_type,
                               .out_type = p.out_type};
  const auto blocks = static_cast<unsigned>(p.n_queries * p.n_heads);
  launch_kernel(
      device::mla_plain, "mla_plain",
      {.grid = dim3(blocks), .block = dim3(device::kPlainThreads), .shared_bytes = shared, .stream = stream},
      args);
}

struct ToBf16Args {
  const uint8_t* rows;
  int64_t row_bytes;
  __nv_bfloat16* out;
  int d_latent;
  int dims;
};

/// Grid: x = row. A thread has every blockDim.x-th value.
__global__ void latent_to_bf16(const ToBf16Args args) {
  const uint8_t* row = args.rows + blockIdx.x * args.row_bytes;
  for (int i = static_cast<int>(threadIdx.x); i < args.dims; i += static_cast<int>(blockDim.x)) {
    args.out[int64_t{blockIdx.x} * args.dims + i] =
        __float2bfloat16(device::latent_value(LatentFormat::kFp8, row, args.d_latent, i));
  }
}

}  // namespace

bool mla_is_fast(const MlaParams& p) {
  return p.rows.format != LatentFormat::kF32 && p.d_latent == kLatent && p.d_rope == device::kRope &&
         p.rows.row_bytes % 16 == 0;
}

void launch_mla(const MlaParams& params, cudaStream_t stream) {
  check_params(params);
  if (params.n_queries == 0) {
    return;
  }
  if (mla_is_fast(params)) {
    launch_whole(params, stream);
  } else {
    launch_plain(params, stream);
  }
}

void launch_latent_to_bf16(const LatentRows& rows, int64_t n_rows, int64_t d_latent, int64_t d_rope,
                           void* bf16_rows, cudaStream_t stream) {
  if (rows.format != LatentFormat::kFp8) {
    throw Error("conversion of the latent cache", "FP8 rows", "rows of another format");
  }
  if (n_rows == 0) {
    return;
  }
  const ToBf16Args args{.rows = static_cast<const uint8_t*>(rows.data),
                        .row_bytes = rows.row_bytes,
                        .out = static_cast<__nv_bfloat16*>(bf16_rows),
                        .d_latent = static_cast<int>(d_latent),
                        .dims = static_cast<int>(d_latent + d_rope)};
  launch_kernel(latent_to_bf16, "latent_to_bf16",
                {.grid = dim3(static_cast<unsigned>(n_rows)), .block = dim3(192), .stream = stream}, args);
}

}  // namespace sluice::cuda
