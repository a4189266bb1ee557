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

// A block of mla_merge: every thread has a piece of eight columns (device::part_column) and each eighth
// split.
constexpr int kMergePieces = kLatent / 8;
constexpr int kMergeGroups = 8;
constexpr int kMergeThreads = kMergeGroups * kMergePieces;
static_assert(kMergeThreads == kLatent);  // in the end every other one has two columns

struct MergeArgs {
  const __nv_bfloat16* parts;  // [n_queries, splits, n_heads, 512], columns in the order of part_column
  const float* log_sum_exp_2;  // [n_queries, splits, n_heads]
  void* out;
  float* log_sum_exp;
  int n_heads;
  int splits;
  FloatType out_type;
};

struct MergeShared {
  // [group][half of a piece][piece]; four more, so that both halves of a piece are in different banks
  float4 sums[kMergeGroups][2][kMergePieces + 4];
  float weights[kMergeGroups];
};

/// Weights of a head's splits from their log-sum-exp, lane l having those of l, l + 32, ..:
/// 2^(log-sum-exp - the largest one); 0 for an empty split. Returns the largest one.
template <int kRounds>
__device__ float split_weights(float (&weights)[kRounds], const float (&log_sum_exp_2)[kRounds]) {
  float largest = device::kNoMaximum;
#pragma unroll
  for (const float value : log_sum_exp_2) largest = fmaxf(largest, value);
  // The bits of a negative float other than its sign, turned round, make integers in the order of the floats.
  const auto in_order = [](int bits) { return bits ^ (bits >> 31 & 0x7FFFFFFF); };
  largest = __int_as_float(in_order(__reduce_max_sync(0xFFFFFFFFU, in_order(__float_as_int(largest)))));
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    weights[i] = ptx::fast_exp2(log_sum_exp_2[i] - largest);
  }
  return largest;
}

/// sum += weight * eight bf16.
__device__ void add_part(float (&sum)[8], float weight, const uint4& part) {
  const uint32_t words[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum[2 * i] = fmaf(weight, __uint_as_float(words[i] << 16), sum[2 * i]);
    sum[2 * i + 1] = fmaf(weight, __uint_as_float(words[i] & 0xFFFF0000U), sum[2 * i + 1]);
  }
}

constexpr int kLoads = 32 / kMergeGroups;

/// Splits `split`, `split` + kMergeGroups, ..: past the last one that again, of weight 0. `first` is the
/// thread's piece of the first split.
__device__ void load_parts(uint4 (&parts)[kLoads], const MergeArgs& args, const uint4* first, int split) {
  const auto stride = static_cast<uint32_t>(args.n_heads * kMergePieces);
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const auto s = static_cast<uint32_t>(min(split + kMergeGroups * i, args.splits - 1));
    parts[i] = __ldg(first + uint64_t{s} * stride);
  }
}

/// The sum over groups of pair `thread` % 4 of piece `thread` / 4.
__device__ float2 sum_of_groups(const MergeShared& shared, uint32_t thread) {
  float2 sum{};
#pragma unroll
  for (const auto& group : shared.sums) {
    const float2 add = reinterpret_cast<const float2*>(&group[thread / 2 % 2][thread / 4])[thread % 2];
    sum.x += add.x;
    sum.y += add.y;
  }
  return sum;
}

__device__ void write_columns(void* out, FloatType type, int64_t position, float low, float high) {
  if (type == FloatType::kF32) {
    *reinterpret_cast<float2*>(static_cast<float*>(out) + position) = make_float2(low, high);
  } else {
    *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(out) + position) = device::two_bf16(low, high);
  }
}

/// Up to 32 * kRounds splits. Grid: x = query, y = head. Bounds of two blocks a multiprocessor: for more of
/// them the compiler saves registers, and has some loads wait for others.
template <int kRounds>
__global__ void __launch_bounds__(kMergeThreads, 2) mla_merge(const MergeArgs args) {
  __shared__ MergeShared shared;
  const int64_t row = int64_t{blockIdx.x} * args.n_heads + blockIdx.y;
  const int64_t first = int64_t{blockIdx.x} * args.splits * args.n_heads + blockIdx.y;
  const uint32_t thread = threadIdx.x;
  const int group = static_cast<int>(thread / kMergePieces);
  const uint32_t piece = thread % kMergePieces;
  const auto* pieces = reinterpret_cast<const uint4*>(args.parts + first * kLatent) + piece;
  follow_last();
  uint4 parts[kLoads];
  load_parts(parts, args, pieces, group);
  float log_sum_exp_2[kRounds];
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    const int s = static_cast<int>(thread % 32) + 32 * i;
    log_sum_exp_2[i] =
        s < args.splits ? __ldg(args.log_sum_exp_2 + first + int64_t{s} * args.n_heads) : -INFINITY;
  }
  float weights[kRounds];
  const float largest = split_weights(weights, log_sum_exp_2);
  float sum[8] = {};
  float sum_of_weights = 0.0F;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round == 0 || 32 * round < args.splits) {
      if (round > 0) {
        load_parts(parts, args, pieces, 32 * round + group);
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const float weight = __shfl_sync(0xFFFFFFFFU, weights[round], group + kMergeGroups * i);
        sum_of_weights += weight;
        add_part(sum, weight, parts[i]);
      }
    }
  }
  shared.sums[group][0][piece] = make_float4(sum[0], sum[1], sum[2], sum[3]);
  shared.sums[group][1][piece] = make_float4(sum[4], sum[5], sum[6], sum[7]);
  if (piece == 0) {
    shared.weights[group] = sum_of_weights;
  }
  __syncthreads();
  if (thread >= kLatent / 2) {
    return;
  }
  float all = 0.0F;
#pragma unroll
  for (const float weight : shared.weights) all += weight;
  const float by = all > 0.0F ? ptx::fast_reciprocal(all) : 0.0F;
  const float2 columns = sum_of_groups(shared, thread);
  const int column = device::part_column(static_cast<int>(thread / 4), static_cast<int>(thread % 4));
  write_columns(args.out, args.out_type, row * kLatent + column, columns.x * by, columns.y * by);
  if (thread == 0 && args.log_sum_exp != nullptr) {
    args.log_sum_exp[row] = all > 0.0F ? (largest + ptx::fast_log2(all)) * 0.69314718F : -INFINITY;
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
  require(p.n_heads >= 1 && p.n_heads <= 65535, "1 to 65535 heads", p.n_heads);
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
  static_assert(kMostMlaSplits <= 128);
  launch_overlapping(from.splits <= 32 ? mla_merge<1> : mla_merge<4>, "mla_merge",
                     {.grid = dim3(static_cast<unsigned>(p.n_queries), static_cast<unsigned>(p.n_heads)),
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
