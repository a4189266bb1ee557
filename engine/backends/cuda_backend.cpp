#include "engine/backends/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <string_view>

#include "engine/backends/gpu_working_memory.h"
#include "kernels_cpu/rope.h"
#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
#include "kernels_cuda/dequantize.h"
#include "kernels_cuda/elementwise.h"
#include "kernels_cuda/gemv.h"
#include "kernels_cuda/norm.h"
#include "kernels_cuda/router.h"
#include "kernels_cuda/topk.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr int kDevice = 0;
constexpr int64_t kAngleGrain = 256;  // positions per task

/// CUDA_LAUNCH_BLOCKING names a failing kernel, which it cannot in a graph.
bool launches_block() {
  const char* const value = std::getenv("CUDA_LAUNCH_BLOCKING");
  return value != nullptr && std::string_view(value) == "1";
}

}  // namespace

CudaBackend::CudaBackend(const Model& model, const CudaWeights& weights, const RuntimeOptions& options,
                         offload::Workers& workers)
    : model_(model),
      config_(model.config()),
      weights_(weights.model()),
      expert_weights_(weights.experts()),
      max_tokens_(options.max_batch),
      multiprocessors_(cuda::device_properties(kDevice).multiprocessors),
      products_(product_shape(config_, options)),
      arena_(gpu_working_memory(config_, options, multiprocessors_).activations),
      buffers_({config_, max_tokens_, multiprocessors_}, arena_),
      handover_(handover_shape(config_, options)),
      staged_(3 * max_tokens_),
      handed_over_(config_.layers - config_.dense_layers -
                   static_cast<int64_t>(options.gpu_expert_layers.size())),
      captures_(!launches_block()),
      clock_(config_, options.profile ? ClockDetail::kBlocks : ClockDetail::kLayers) {
  if (!options.gpu_expert_layers.empty()) {
    experts_.emplace(expert_shape(config_, options));
  }
  fill_angles(workers);
}

void CudaBackend::give_up_pass() {
  if (unanswered_ > 0) {
    handover_.drain(stream_.get());
    unanswered_ = 0;
  }
}

void CudaBackend::require_shape(const ModelConfig& c, const std::string& source) {
  const auto require = [&](bool right, const char* expected, int64_t found) {
    if (!right) {
      throw Error(source, fmt::format("{}, or -ngl 0 (CPU)", expected), std::to_string(found));
    }
  };
  for (const int64_t width : {c.d_model, c.q_rank, c.d_ffn, c.d_expert, c.d_rope, c.d_value}) {
    require(width % 8 == 0, "widths in multiples of 8 for the GPU", width);
  }
  require(c.d_nope % 32 == 0, "a d_nope in multiples of 32 for the GPU", c.d_nope);
  require(c.d_latent % 32 == 0, "a d_latent in multiples of 32 for the GPU", c.d_latent);
  require(c.d_latent <= cuda::kMostLatent, "a d_latent of at most 1024 for the GPU", c.d_latent);
  require(c.router.experts <= cuda::kMostExperts, "at most 1024 experts for the GPU", c.router.experts);
  require(c.router.experts_used <= cuda::kMostExpertsUsed, "at most 32 experts per token for the GPU",
          c.router.experts_used);
  require(c.router.groups <= cuda::kMostExpertGroups, "at most 64 groups of experts for the GPU",
          c.router.groups);
  if (c.has_indexer) {
    require(c.d_index <= cuda::kMostIndex && c.d_index % 4 == 0,
            "a d_index in multiples of 4, at most 256, for the GPU", c.d_index);
    require(c.index_top_k <= cuda::kMostTopK, "an index_top_k of at most 2048 for the GPU", c.index_top_k);
  }
}

// Every layer turns by the same angles.
void CudaBackend::fill_angles(offload::Workers& workers) {
  const std::vector<float> frequencies = cpu::yarn_frequencies(config_.rope);
  const int64_t context = cuda_context(config_);
  std::vector<float> table(static_cast<size_t>(context * config_.d_rope));
  const MatrixView<float> angles(table.data(), context, config_.d_rope);
  workers.for_ranges(context, kAngleGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t p = begin; p < end; ++p) {
      cpu::rope_angles(frequencies, p, angles.row(p));
    }
  });
  cuda::check(
      cudaMemcpy(buffers_.cos_sin, table.data(), table.size() * sizeof(float), cudaMemcpyHostToDevice),
      "copying angles to the GPU");
}

std::unique_ptr<KvCache> CudaBackend::make_cache(int64_t capacity, CacheType type) {
  const int64_t longest = cuda_context(config_);
  if (capacity > longest) {
    throw Error("-c/--ctx-size", fmt::format("at most {} tokens with a GPU (-ngl 0 has none)", longest),
                std::to_string(capacity));
  }
  return std::make_unique<CudaCache>(config_, capacity, type);
}

const CudaLayer& CudaBackend::layer_weights(int64_t layer) const {
  return weights_.layers[static_cast<size_t>(layer)];
}

std::span<const float> CudaBackend::to_host(const float* data, int64_t n, int64_t cols) {
  host_rows_.resize(static_cast<size_t>(n * cols));
  cuda::check(cudaMemcpyAsync(host_rows_.data(), data, host_rows_.size() * sizeof(float),
                              cudaMemcpyDeviceToHost, stream_.get()),
              "reading activations");
  stream_.synchronize();
  return host_rows_;
}

MatrixView<const float> CudaBackend::residual(int64_t n_tokens) {
  return {to_host(buffers_.residual, n_tokens, config_.d_model).data(), n_tokens, config_.d_model};
}

void CudaBackend::norm_residual(const float* gain, int64_t n) {
  cuda::rms_norm({.x = buffers_.residual,
                  .x_stride = config_.d_model,
                  .y = buffers_.normed,
                  .y_stride = config_.d_model,
                  .rows = n,
                  .n = config_.d_model},
                 gain, config_.rms_eps, stream_.get());
}

void CudaBackend::add_block(int64_t n) {
  cuda::add_scaled(buffers_.block_output, 1.0F, n * config_.d_model, buffers_.residual, stream_.get());
}

void CudaBackend::stage(const Batch& batch) {
  staged_free_.synchronize();
  int32_t* const staged = staged_.data();
  for (int64_t t = 0; t < batch.n_tokens(); ++t) {
    const auto position = static_cast<int32_t>(batch.first_position + t);
    staged[t] = batch.ids[static_cast<size_t>(t)];
    staged[max_tokens_ + t] = position;
    staged[2 * max_tokens_ + t] = position + 1;
  }
}

void CudaBackend::put_embedding(int64_t n) {
  const auto pitch = static_cast<size_t>(max_tokens_) * sizeof(int32_t);
  cuda::check(
      cudaMemcpy2DAsync(buffers_.ids, pitch, staged_.data(), pitch, static_cast<size_t>(n) * sizeof(int32_t),
                        3, cudaMemcpyHostToDevice, stream_.get()),
      "copying token ids to the GPU");
  cuda::embed(weights_.token_embedding, buffers_.ids, n, buffers_.residual, config_.d_model, stream_.get());
  clock_.begin(stream_.get());
}

void CudaBackend::embed(const Batch& batch) {
  assert(unanswered_ == 0);  // the last pass was completed or given up
  handover_.begin_pass();
  stage(batch);
  replays_ = captures_ && batch.n_tokens() == 1 && batch.observer == nullptr;
  if (replays_) {
    token_graph(batch).launch(stream_.get());
    unanswered_ = handed_over_;
  } else {
    put_embedding(batch.n_tokens());
  }
  staged_free_.record(stream_.get());
}

void CudaBackend::correct_times(LayerTimes& times) {
  if (replays_) {
    clock_.read_layers(times);
  }
  if (clock_.has_blocks()) {
    clock_.read_blocks(times.blocks);
  }
}

void CudaBackend::final_norm(RowRange rows) {
  float* const x = buffers_.residual + rows.begin * config_.d_model;
  cuda::rms_norm({.x = x,
                  .x_stride = config_.d_model,
                  .y = x,
                  .y_stride = config_.d_model,
                  .rows = rows.count,
                  .n = config_.d_model},
                 weights_.output_norm, config_.rms_eps, stream_.get());
}

void CudaBackend::head(RowRange rows, MatrixView<float> logits) {
  const int64_t vocab = config_.vocab_size;
  const CudaRows x{buffers_.residual + rows.begin * config_.d_model, rows.count, config_.d_model};
  for (int64_t begin = 0; begin < rows.count; begin += kCudaHeadTokens) {
    const int64_t n = std::min(kCudaHeadTokens, rows.count - begin);
    const CudaProduct product{weights_.output, {buffers_.logits, n, vocab}};
    products_.multiply({&product, 1}, x.rows_from(begin, n), stream_.get());
    cuda::check(
        cudaMemcpy2DAsync(logits.row(begin).data(), static_cast<size_t>(logits.row_stride) * sizeof(float),
                          buffers_.logits, static_cast<size_t>(vocab) * sizeof(float),
                          static_cast<size_t>(vocab) * sizeof(float), static_cast<size_t>(n),
                          cudaMemcpyDeviceToHost, stream_.get()),
        "reading logits");
  }
  stream_.synchronize();
}

}  // namespace sluice
