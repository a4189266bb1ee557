// The fast attention kernel: flash attention over tiles of latent rows.
#pragma once

#include "kernels_cuda/device/mla_passes.cuh"
#include "kernels_cuda/device/mla_tiles.cuh"
#include "kernels_cuda/device/mla_values.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/ptx.cuh"
#include "kernels_cuda/device/shared_memory.cuh"
#include "kernels_cuda/mla.h"

namespace sluice::cuda::device {

/// Kernel arguments, sizes narrowed.
struct MlaArgs {
  const void* queries;
  const uint8_t* rows;
  const int32_t* selected;
  const int32_t* counts;
  void* out;  // one split: [n_queries, n_heads, 512] of out_type; more: bf16 [n_queries, splits, n_heads,
              // 512], columns in the order of part_column
  float* log_sum_exp;  // one split: natural; more: [n_queries, splits, n_heads] to the base 2
  int64_t row_bytes;
  int64_t selected_stride;
  uint32_t n_rows;
  int n_heads;
  int splits;
  float scale_log2;  // softmax_scale * log2(e)
  FloatType query_type;
  FloatType out_type;
  int list_split_rows = 0;  // entries of a list that a split has, whole tiles
};

/// What a block has. With the ring: grid x = query * head blocks + head block, y = split. In passes: grid x =
/// query, y = split, z = head block; a decoded token would wait for the division.
struct MlaBlock {
  int64_t query;
  int first_head;
  int split;

  /// Position of the block's first head in the output.
  [[nodiscard]] __device__ __forceinline__ int64_t first_row(const MlaArgs& args) const {
    return (query * args.splits + split) * args.n_heads + first_head;
  }
};

/// Asked for anew after the loop instead of being kept in registers.
template <typename Shape>
__device__ __forceinline__ MlaBlock this_block(const MlaArgs& args) {
  if constexpr (!Shape::kIsRing) {
    return {blockIdx.x, static_cast<int>(blockIdx.z) * Shape::kHeads, static_cast<int>(blockIdx.y)};
  }
  const uint32_t x = ptx::block_x_again();
  const uint32_t y = ptx::block_y_again();
  const auto head_blocks = static_cast<uint32_t>((args.n_heads + Shape::kHeads - 1) / Shape::kHeads);
  return {x / head_blocks, static_cast<int>(x % head_blocks) * Shape::kHeads, static_cast<int>(y)};
}

/// Entries of a split of `total`: whole tiles.
template <typename Shape>
__host__ __device__ __forceinline__ int split_rows(int total, int splits) {
  const int tiles = (total + Shape::kTileRows - 1) / Shape::kTileRows;
  return (tiles + splits - 1) / splits * Shape::kTileRows;
}

/// The entries of the block's split. A list is cut by its length, not by the count, which is then not waited
/// for.
template <typename Shape>
__device__ __forceinline__ RowRange range_of(const MlaArgs& args, const MlaBlock& block) {
  const int count = args.counts[block.query];
  const bool is_sparse = args.selected != nullptr;
  const int total = is_sparse ? static_cast<int>(args.selected_stride) : count;
  const int per_split = split_rows<Shape>(total, args.splits);
  const int begin = min(total, block.split * per_split);
  const int32_t* selected = is_sparse ? args.selected + block.query * args.selected_stride : nullptr;
  return {args.rows, selected, args.row_bytes, args.n_rows, begin, min(total, begin + per_split), count};
}

/// Tiles [0, n_tiles) of a loader that has started kLoadedFirst of them. Scores run a tile ahead of values,
/// so that both products are between the same two barriers, and one team's products run beside the other's
/// softmax.
template <typename Shape>
__device__ __forceinline__ void attend_tiles(MlaShared<Shape>& shared, RowLoader<Shape>& loader, int n_tiles,
                                             const QueryFragments& q, float scale_log2,
                                             RunningSoftmax& running, MlaOutput<Shape>& out,
                                             const MlaPlace<Shape>& at) {
  ptx::wait_for_copies<Shape::kLoadedFirst - 2>();
  if constexpr (Shape::kIsFp8) {
    convert_rows(shared, 0);
    convert_rows(shared, 1);
  }
  __syncthreads();
  write_scores(shared, multiply_queries(shared, q, 0, at), at);
  __syncthreads();
  softmax_tile(shared, running, 0, scale_log2);
  const int last = n_tiles - 1;
  for (int tile = 0; tile < last; ++tile) {
    if constexpr (Shape::kIsFp8) {
      ptx::wait_for_copies<0>();
      convert_rows(shared, tile + 2);
    }
    const PartialScores s = multiply_queries(shared, q, tile + 1, at);
    __syncthreads();  // the scores of `tile` are read, its weights written; the tile before is done with
    write_scores(shared, s, MlaPlace<Shape>(ptx::thread_x_again()));
    loader.load(tile + 3);
    ptx::wait_for_copies<1>();
    __syncthreads();  // the next scores are there, and the tile behind them
    if (at.team == 1) {
      softmax_tile(shared, running, tile + 1, scale_log2);
    }
    add_values(shared, out, tile, MlaPlace<Shape>(ptx::thread_x_again()));
    if (at.team == 0) {
      softmax_tile(shared, running, tile + 1, scale_log2);
    }
  }
  __syncthreads();
  if (last >= 0) {
    add_values(shared, out, last, at);
  }
}

/// All rows of the block's range, through the ring.
template <typename Shape>
__device__ __forceinline__ void attend_ring(MlaShared<Shape>& shared, const MlaArgs& args,
                                            const MlaBlock& block, RunningSoftmax& running,
                                            MlaOutput<Shape>& out, const MlaPlace<Shape>& at) {
  RowRange range = range_of<Shape>(args, block);
  RowLoader<Shape> loader(shared, range);
  loader.load_first();
  const int n_tiles = range.n_tiles(Shape::kTileRows);
  range.limit_to_count();
  QueryFragments q;
  const int64_t head = block.query * args.n_heads + block.first_head + at.first_head;
  const int n_heads = args.n_heads - block.first_head - at.first_head;
  if (args.query_type == FloatType::kF32) {  // while the rows are on their way
    load_queries(q, static_cast<const float*>(args.queries) + head * kRowDims, n_heads, at);
  } else {
    load_queries(q, static_cast<const __nv_bfloat16*>(args.queries) + head * kRowDims, n_heads, at);
  }
  attend_tiles(shared, loader, n_tiles, q, args.scale_log2, running, out, at);
  ptx::wait_for_copies<0>();
}

/// Sums and log-sum-exp of the block's heads; a barrier has to follow.
template <typename Shape>
__device__ __forceinline__ void finish_block(MlaShared<Shape>& shared, const RunningSoftmax& running,
                                             const MlaArgs& args, const MlaBlock& block) {
  const int64_t first_row = block.first_row(args);
  const int heads = min(Shape::kHeads, args.n_heads - block.first_head);
  float* log_sum_exp = args.log_sum_exp == nullptr ? nullptr : args.log_sum_exp + first_row;
  finish_softmax(shared, running, heads, log_sum_exp, args.splits == 1 ? 0.69314718F : 1.0F);
}

/// A pass whose copies have been started; rows that are not there are zeros, without weight.
template <typename Shape>
__device__ __forceinline__ void attend_pass(MlaShared<Shape>& shared, const QueryFragments& q,
                                            const MlaArgs& args, const MlaBlock& block,
                                            RunningSoftmax& running, MlaOutput<Shape>& out,
                                            const MlaPlace<Shape>& at) {
  static_assert(Shape::kStages == 2);
  ptx::wait_for_copies<0>();
  if constexpr (Shape::kIsFp8) {
    convert_rows(shared, 0);
    convert_rows(shared, 1);
  }
  __syncthreads();
  write_scores(shared, multiply_chunks(shared, q, 0, at), at);
  __syncthreads();
  const PartialScores s = multiply_chunks(shared, q, 1, at);
  softmax_tile(shared, running, 0, args.scale_log2);
  __syncthreads();  // the scores of the first tile are read, its weights written
  write_scores(shared, s, at);
  __syncthreads();
  softmax_tile(shared, running, 1, args.scale_log2);
  add_values(shared, out, 0, at);
  finish_block(shared, running, args, block);  // of the last pass in the end
  __syncthreads();
  add_values(shared, out, 1, at);
}

/// Starts a pass's copies, and has the block's queries. All that can be asked for is, before the rows'
/// numbers are waited for.
template <typename Shape, typename T>
__device__ __forceinline__ QueryFragments start_pass(PassLoader<Shape>& loader, const RowRange& pass,
                                                     const T* queries, int n_heads,
                                                     const MlaPlace<Shape>& at) {
  const QueryChunks<T> chunks = ask_for_queries(queries, n_heads, at);
  loader.start_copies(pass);
  return fragments_of(chunks);
}

/// All rows of the block's range, in passes of what fits into the stages.
template <typename Shape>
__device__ __forceinline__ void attend_passes(MlaShared<Shape>& shared, const MlaArgs& args,
                                              const MlaBlock& block, RunningSoftmax& running,
                                              MlaOutput<Shape>& out, const MlaPlace<Shape>& at) {
  constexpr int kPassRows = Shape::kStages * Shape::kTileRows;
  const bool is_sparse = args.selected != nullptr;
  const int32_t* selected = is_sparse ? args.selected + block.query * args.selected_stride : nullptr;
  const int64_t head = (block.query * args.n_heads + block.first_head) * kRowDims;
  const int n_heads = args.n_heads - block.first_head;
  wait_for_last();
  const int count = args.counts[block.query];
  int total = static_cast<int>(args.selected_stride);
  int per_split = args.list_split_rows;
  if (!is_sparse) {  // not by selection: a list's numbers are asked for without waiting for the count
    total = __ldcg(args.counts + block.query);
    per_split = split_rows<Shape>(total, args.splits);
  }
  const int begin = min(total, block.split * per_split);
  const int end = min(total, begin + per_split);
  RowRange pass{args.rows, selected, args.row_bytes, args.n_rows, begin, min(end, begin + kPassRows), count};
  PassLoader<Shape> loader(shared);
  loader.look_up(pass);
  const QueryFragments q =
      args.query_type == FloatType::kF32
          ? start_pass(loader, pass, static_cast<const float*>(args.queries) + head, n_heads, at)
          : start_pass(loader, pass, static_cast<const __nv_bfloat16*>(args.queries) + head, n_heads, at);
  while (true) {
    attend_pass(shared, q, args, block, running, out, at);
    if (pass.end >= min(end, pass.count)) {
      return;
    }
    pass.begin = pass.end;
    pass.end = min(end, pass.begin + kPassRows);
    loader.look_up(pass);
    __syncthreads();
    loader.start_copies(pass);
  }
}

/// What this thread has of the block's result.
template <typename Shape>
__device__ __forceinline__ void write_results(const MlaShared<Shape>& shared, const MlaOutput<Shape>& out,
                                              const MlaArgs& args, const MlaBlock& block,
                                              const MlaPlace<Shape>& at) {
  const int64_t first_row = block.first_row(args);
  const int heads = min(Shape::kHeads, args.n_heads - block.first_head);
  if (args.splits != 1) {
    write_parts(shared, out, static_cast<__nv_bfloat16*>(args.out) + first_row * kLatent, heads, at);
  } else if (args.out_type == FloatType::kF32) {
    write_output(shared, out, static_cast<float*>(args.out) + first_row * kLatent, heads, at);
  } else {
    write_output(shared, out, static_cast<__nv_bfloat16*>(args.out) + first_row * kLatent, heads, at);
  }
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1) mla_attend(const MlaArgs args) {
  SLUICE_DYNAMIC_SHARED(uint8_t, shared_bytes);
  auto& shared = *reinterpret_cast<MlaShared<Shape>*>(shared_bytes);
  const MlaPlace<Shape> at(static_cast<int>(threadIdx.x));
  RunningSoftmax running;
  MlaOutput<Shape> out{};
  let_next_begin();
  if constexpr (Shape::kIsRing) {
    wait_for_last();
    attend_ring(shared, args, this_block<Shape>(args), running, out, at);
    const MlaBlock block = this_block<Shape>(args);
    finish_block(shared, running, args, block);
    __syncthreads();
    write_results(shared, out, args, block, at);
  } else {
    const MlaBlock block = this_block<Shape>(args);
    attend_passes(shared, args, block, running, out, at);
    write_results(shared, out, args, block, at);
  }
}

}  // namespace sluice::cuda::device
