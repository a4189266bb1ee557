// Products of quantized experts' matrices with the tokens that chose them (kernels_cuda/chosen_experts.h):
// gemv_stream.cuh with a work.
//
// A unit is a panel of a choice whose expert is there, or a gate's panel and the up's that belongs to it.
// Blocks, one for each multiprocessor, take equal runs of all units: so most meet one row of x or two, and
// none waits for experts that are elsewhere. A pass is the part of a run whose rows of x have room in shared
// memory; its panels are jobs of a share of the columns each, which warps take in turn, loading the first
// steps of the next as they consume the last ones of one. The jobs' sums meet in shared memory in a fixed
// order; what is cut into them depends on the shape alone.
#pragma once

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/chosen_plan.h"
#include "kernels_cuda/device/chosen_args.cuh"
#include "kernels_cuda/device/gemv_stream.cuh"
#include "kernels_cuda/device/silu.cuh"

namespace sluice::cuda {

/// Units [begin, end) of a block's run; their first row of x, how many rows, how many jobs.
struct ChosenPass {
  int begin;
  int end;
  int first_row;
  int rows;
  int jobs;
};

/// What a block works at, in shared memory, where it costs the loop no registers.
struct ChosenWork {
  uint8_t choices[kMostChosen];  // whose experts are there, ascending
  uint8_t rows[kMostChosen];     // of x: tokens where choices share them, else 0, 1, 2 ...
  int32_t experts[kMostChosen];
  int end;  // of the block's run
  ChosenPass pass;
};

/// Lists the choices, and puts an empty pass before the block's run. Called by the first warp; a barrier
/// later all is there. The ids are read past the L1, which may hold older ones: this may be before the wait
/// (ChosenStart::kBehindSelf).
__device__ __forceinline__ void begin_work(const ChosenArgs& args, ChosenWork& work) {
  const int lane = static_cast<int>(threadIdx.x);
  int count = 0;
#pragma unroll 1
  for (int first = 0; first < args.choices; first += 32) {
    const int choice = first + lane;
    const int32_t id = choice < args.choices ? __ldcg(args.ids + choice) : -1;
    const uint32_t there = __ballot_sync(0xFFFFFFFFU, id >= 0);
    if (id >= 0) {
      const int at = count + __popc(there & ((1U << lane) - 1U));
      work.choices[at] = static_cast<uint8_t>(choice);
      work.rows[at] = static_cast<uint8_t>(args.choices_of_x == 1 ? at : choice / args.choices_of_x);
      work.experts[at] = id;
    }
    count += __popc(there);
  }
  if (lane == 0) {
    const int64_t units = static_cast<int64_t>(count) * args.panels;
    work.pass.end = static_cast<int>(units * blockIdx.x / gridDim.x);
    work.end = static_cast<int>(units * (blockIdx.x + 1) / gridDim.x);
  }
}

__device__ __forceinline__ int matrices_of(const ChosenArgs& args) {
  return args.result == ChosenResult::kGateAndUp ? 2 : 1;
}

/// The one that follows the pass at hand.
__device__ __forceinline__ ChosenPass next_pass(const ChosenArgs& args, const ChosenWork& work) {
  const int begin = work.pass.end;
  int at = begin / args.panels;
  const int first_row = work.rows[at];
  int rows = 0;
  for (; at * args.panels < work.end; ++at) {
    const int row = work.rows[at] - first_row;
    if (row >= args.stage_rows) break;
    rows = row + 1;
  }
  const int stop = min(work.end, at * args.panels);
  return {begin, stop, first_row, rows, (stop - begin) * matrices_of(args) * args.shares};
}

/// A job of the pass, a share of a panel: what to walk, and its first chunk of x in the stage.
template <class Format>
struct ChosenJob {
  PanelWalk<Format> walk;
  int chunk;
};

/// Nothing to walk when the pass has no such job.
template <class Format>
__device__ __forceinline__ ChosenJob<Format> chosen_job(const ChosenArgs& args, const ChosenWork& work,
                                                        int job) {
  ChosenJob<Format> found{{nullptr, nullptr, 0, 0}, 0};
  if (job >= work.pass.jobs) return found;
  const bool pairs = args.result == ChosenResult::kGateAndUp;
  const int panel_of_pass = job >> args.share_bits;
  const int unit = work.pass.begin + (pairs ? panel_of_pass / 2 : panel_of_pass);
  const int at = unit / args.panels;
  const ChosenMatrix& matrix = args.matrices[pairs ? panel_of_pass % 2 : 0];
  const unsigned char* const panel =
      matrix.panels + work.experts[at] * matrix.expert_bytes + (unit - at * args.panels) * args.panel_bytes;
  const PanelLane lane = PanelLane::of(panel, args.scales_at, static_cast<int>(threadIdx.x) % 32);
  found.walk.quants = lane.quants;
  found.walk.scales = lane.scales;
  found.walk.advance((job & (args.shares - 1)) * args.steps_per_share);
  found.walk.left = max(0, min(args.steps_per_share, args.steps - found.walk.step));
  found.chunk = ((work.rows[at] - work.pass.first_row) * args.steps + found.walk.step) * Format::kChunks;
  return found;
}

/// Splits the pass's rows of x into `stage`; all threads.
template <class Format>
__device__ __forceinline__ void load_rows(const ChosenArgs& args, const ChosenWork& work,
                                          const ActivationStage& stage) {
  const auto row = [&](int i) {
    const int at = work.pass.first_row + i;
    return args.x + static_cast<int64_t>(args.choices_of_x == 1 ? work.choices[at] : at) * args.cols;
  };
  load_activations<Format::kOrder, Tokens::kAny, kChunkSums<Format>>(row, work.pass.rows, 0, stage.chunks,
                                                                     stage);
}

/// Where the jobs end whose sums lie in shared memory together, `first` being their first.
__device__ __forceinline__ int turn_end(const ChosenWork& work, int first) {
  return min(first + static_cast<int>(kMostChosenJobs), work.pass.jobs);
}

/// Results of the units whose jobs begin with `first` and have their sums in parts [jobs][16]. All threads.
__device__ __forceinline__ void finish_units(const ChosenArgs& args, const ChosenWork& work, int first,
                                             const float* parts) {
  constexpr int kRows = static_cast<int>(quant::kPanelRows);
  const int jobs_of_unit = matrices_of(args) * args.shares;
  const int outputs = (turn_end(work, first) - first) / jobs_of_unit * kRows;
  for (int i = static_cast<int>(threadIdx.x); i < outputs; i += static_cast<int>(blockDim.x)) {
    const int unit = work.pass.begin + first / jobs_of_unit + i / kRows;
    const int at = unit / args.panels;
    const int row = (unit - at * args.panels) * kRows + i % kRows;
    if (row >= args.rows) continue;
    const auto product = [&](int matrix) {
      const float* const from = parts + (i / kRows * jobs_of_unit + matrix * args.shares) * kRows + i % kRows;
      float sum = 0.0F;
      for (int share = 0; share < args.shares; ++share) sum += from[share * kRows];
      return sum * scale_of(args.matrices[matrix], work.experts[at]);
    };
    float* const y = args.y + static_cast<int64_t>(work.choices[at]) * args.rows + row;
    const float value = product(0);
    if (args.result == ChosenResult::kGateAndUp) {
      *y = silu(value) * product(1);
    } else {
      *y = args.result == ChosenResult::kTimesSilu ? silu(*y) * value : value;
    }
  }
}

/// Multiplies the warp's jobs among kMostChosenJobs from `first` on, and loads the first steps of its next.
template <class Format, class Sums>
__device__ __forceinline__ void multiply_jobs(const ChosenArgs& args, const ChosenWork& work, int first,
                                              const ActivationStage& stage, ChosenJob<Format>& ahead,
                                              RawSteps<Format>& raw, Sums& sums, float* parts) {
  constexpr int kRows = static_cast<int>(quant::kPanelRows);
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int job = first + static_cast<int>(threadIdx.x) / 32; job < turn_end(work, first); job += warps) {
    int step = ahead.walk.step;
    int left = ahead.walk.left;
    auto x = Sums::Activations::of(stage, static_cast<int>(threadIdx.x) % 32);
    x.advance(ahead.chunk);
    sums.clear();
    if (left == 0) {
      ahead = chosen_job<Format>(args, work, job + warps);
      load_steps<Format>(ahead.walk, raw);
    }
    for (; left > 0; left -= Format::kDepth, step += Format::kDepth) {
      ahead.walk.advance(Format::kDepth);
      if (ahead.walk.left <= 0) ahead = chosen_job<Format>(args, work, job + warps);
      consume_steps<Format>(step, left, ahead.walk, x, raw, sums);
      x.advance(Format::kDepth * Format::kChunks);
    }
    sums.write(1, parts + (job - first) * kRows, kRows);
  }
}

/// All jobs of a pass, and its results. All threads of the block.
template <class Format>
__device__ __forceinline__ void multiply_pass(const ChosenArgs& args, const ChosenWork& work,
                                              const ActivationStage& stage, float* parts) {
  ChosenJob<Format> ahead =  // what is loaded and not consumed yet
      chosen_job<Format>(args, work, static_cast<int>(threadIdx.x) / 32);
  RawSteps<Format> raw;
  load_steps<Format>(ahead.walk, raw);
  ask_for_more<Format>(ahead.walk, ptx::thread_x_again() % 32);
  wait_for_last();
  load_rows<Format>(args, work, stage);
  __syncthreads();
  GemvSums<Format, 1> sums(args.zeros);
  for (int first = 0; first < work.pass.jobs; first += static_cast<int>(kMostChosenJobs)) {
    multiply_jobs<Format>(args, work, first, stage, ahead, raw, sums, parts);
    __syncthreads();
    finish_units(args, work, first, parts);
    __syncthreads();
  }
}

template <class Format>
__global__ void __launch_bounds__(32 * Format::kStreamWarps, 1)
    chosen_stream_kernel(const __grid_constant__ ChosenArgs args) {
  static_assert(kMostChosenJobs % Format::kStreamWarps == 0);
  SLUICE_DYNAMIC_SHARED(uint2, stage_memory);
  __shared__ float parts[kMostChosenJobs * quant::kPanelRows];
  __shared__ ChosenWork work;
  const auto stage = ActivationStage::at(stage_memory, args.stage_rows, args.steps * Format::kChunks);
  // The next kernel may read the ids as soon as it begins: who wrote them has been waited for, by this kernel
  // or by the one that let it begin.
  if (args.start == ChosenStart::kBehindLast) wait_for_last();
  let_next_begin();
  if (threadIdx.x < 32) begin_work(args, work);
  __syncthreads();
  while (work.pass.end < work.end) {
    __syncthreads();
    if (threadIdx.x == 0) work.pass = next_pass(args, work);
    __syncthreads();
    multiply_pass<Format>(args, work, stage, parts);
  }
  wait_for_last();  // a block that has nothing to do, too
}

template <class Format>
void launch_chosen_stream(const ChosenArgs& args, unsigned blocks, cudaStream_t stream) {
  const auto kernel = chosen_stream_kernel<Format>;
  allow_shared<kMostStageBytes>(kernel, "chosen_experts");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "chosen_experts");
  launch_overlapping(
      kernel, "chosen_experts",
      {.grid = dim3(blocks),
       .block = dim3(32 * Format::kStreamWarps),
       .shared_bytes = ActivationStage::shared_bytes(args.stage_rows, args.steps * Format::kChunks),
       .stream = stream},
      args);
}

}  // namespace sluice::cuda
