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

PrefillShape prefill_shape(const ModelConfig& c, const RuntimeOptions& options, const StreamedSizes& sizes) {
  return {.experts = pass_expert_shape(c, options).value(),
          .staging = staging_shape(sizes, options.staging_bytes),
          .cpu_rows = most_cpu_tokens(options),
          .mode = options.prefill};
}

/// CUDA_LAUNCH_BLOCKING names a failing kernel, which it cannot in a graph.
bool launches_block() {
  const char* const value = std::getenv("CUDA_LAUNCH_BLOCKING");
  return value != nullptr && std::string_view(value) == "1";
}

}  // namespace

CudaBackend::CudaBackend(const Parts& parts, const RuntimeOptions& options, offload::Workers& workers)
    : model_(parts.model),
      config_(parts.model.config()),
      weights_(parts.weights.model()),
      expert_weights_(parts.weights.experts()),
      layers_(parts_of(config_, options).gpu.layers),
      pass_(options.max_batch),
      tile_(options.tile),
      multiprocessors_(cuda::device_properties(kDevice).multiprocessors),
      products_(product_shape(config_, options)),
      arena_(gpu_working_memory(config_, options, multiprocessors_).activations),
      buffers_(activation_shape(config_, options, multiprocessors_), arena_),
      handover_(handover_shape(config_, options)),
      staged_(3 * pass_),
      staged_x_(layers_.begin == 0 ? 0 : pass_ * config_.d_model),
      handed_over_(layers_.end - std::max(layers_.begin, config_.dense_layers) -
                   static_cast<int64_t>(options.gpu_expert_layers.size())),
      captures_(!launches_block()),
      clock_(config_, layers_.begin, options.profile ? ClockDetail::kBlocks : ClockDetail::kLayers) {
  if (computes_few(options)) {
    experts_.emplace(expert_shape(config_, options));
  }
  if (options.expert_cache_bytes > 0) {
    expert_cache_.emplace(parts.experts, parts.pinned, layers_.begin, config_.router.experts_used,
                          options.expert_cache_bytes);
  }
  if (const auto pass = pass_expert_shape(config_, options); pass.has_value()) {
    pass_experts_.emplace(*pass);
  }
  if (options.prefill != Prefill::kCpu) {
    prefill_.emplace(parts.experts, parts.pinned,
                     prefill_shape(config_, options, streamed_sizes(parts.experts)), *pass_experts_, workers);
  }
  fill_angles(workers);
}

void CudaBackend::give_up_pass() {
  if (unanswered_ > 0) {
    handover_.drain(stream_.get());
    unanswered_ = 0;
  }
  if (streaming_) {
    prefill_->give_up(stream_.get());
    streaming_ = false;
  }
}

// A failed kernel is told by whatever is asked of its stream from then on.
std::string CudaBackend::failed_in() const {
  const cudaError_t state = cudaStreamQuery(stream_.get());
  return state == cudaSuccess || state == cudaErrorNotReady ? std::string() : progress_.text();
}

int64_t CudaBackend::bytes_needed(const ModelConfig& config, const RuntimeOptions& options,
                                  const StreamedSizes& sizes, int64_t multiprocessors) {
  return gpu_working_memory(config, options, multiprocessors).total() +
         (options.prefill == Prefill::kCpu ? 0 : staging_shape(sizes, options.staging_bytes).bytes());
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
  cuda::copy_to_gpu(buffers_.cos_sin, std::as_bytes(std::span(table)), "copying angles to the GPU");
}

std::unique_ptr<KvCache> CudaBackend::make_cache(int64_t capacity, CacheType type) {
  const int64_t longest = cuda_context(config_);
  if (capacity > longest) {
    throw Error("-c/--ctx-size", fmt::format("at most {} tokens with a GPU (-ngl 0 has none)", longest),
                std::to_string(capacity));
  }
  return std::make_unique<CudaCache>(config_, layers_, capacity, type);
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

void CudaBackend::norm_residual(const float* gain, RowRange rows, cuda::Mark mark) {
  cuda::rms_norm({.x = residual_at(rows),
                  .x_stride = config_.d_model,
                  .y = buffers_.normed,
                  .y_stride = config_.d_model,
                  .rows = rows.count,
                  .n = config_.d_model,
                  .mark = mark},
                 gain, config_.rms_eps, stream_.get());
}

void CudaBackend::add_block(RowRange rows) {
  cuda::add_scaled(buffers_.block_output, 1.0F, rows.count * config_.d_model, residual_at(rows),
                   stream_.get());
}

void CudaBackend::stage(const Batch& batch) {
  staged_free_.synchronize();
  int32_t* const staged = staged_.data();
  for (int64_t t = 0; t < batch.n_tokens(); ++t) {
    const auto position = static_cast<int32_t>(batch.first_position + t);
    staged[t] = batch.ids[static_cast<size_t>(t)];
    staged[pass_ + t] = position;
    staged[2 * pass_ + t] = position + 1;
  }
}

void CudaBackend::put_input(int64_t n) {
  const auto pitch = static_cast<size_t>(pass_) * sizeof(int32_t);
  cuda::check(
      cudaMemcpy2DAsync(buffers_.ids, pitch, staged_.data(), pitch, static_cast<size_t>(n) * sizeof(int32_t),
                        3, cudaMemcpyHostToDevice, stream_.get()),
      "copying token ids to the GPU");
  if (layers_.begin == 0) {
    cuda::embed(weights_.token_embedding, buffers_.ids, n, buffers_.residual, config_.d_model, stream_.get());
  } else {
    cuda::check(cudaMemcpyAsync(buffers_.residual, staged_x_.data(),
                                static_cast<size_t>(n * config_.d_model) * sizeof(float),
                                cudaMemcpyHostToDevice, stream_.get()),
                "copying the residual stream to the GPU");
  }
  clock_.begin(stream_.get());
}

void CudaBackend::embed(const Batch& batch) {
  assert(layers_.begin == 0);
  stage(batch);
  begin_pass(batch);
}

void CudaBackend::resume(const Batch& batch, MatrixView<const float> x) {
  assert(layers_.begin > 0);
  stage(batch);
  for (int64_t t = 0; t < batch.n_tokens(); ++t) {
    std::ranges::copy(x.row(t), staged_x_.data() + t * config_.d_model);
  }
  begin_pass(batch);
}

void CudaBackend::begin_pass(const Batch& batch) {
  assert(unanswered_ == 0);  // the last pass was completed or given up
  handover_.begin_pass();
  replays_ = captures_ && layers_.count() > 0 && batch.n_tokens() == 1 && batch.observer == nullptr;
  streaming_ = false;
  whole_layers_ = config_.layers - (batch.narrows ? 1 : 0);
  begin_caching(batch);
  if (replays_) {
    token_graph(batch).launch(stream_.get());
    unanswered_ = handed_over_;
  } else {
    put_input(batch.n_tokens());
    begin_streaming(batch.n_tokens());
  }
  staged_free_.record(stream_.get());
}

// An observer wants to see all choices, and more tokens' experts are streamed or the CPU's.
void CudaBackend::begin_caching(const Batch& batch) {
  caching_ = expert_cache_.has_value() && batch.n_tokens() <= kFewExpertTokens && batch.observer == nullptr;
  if (caching_) {
    expert_cache_->begin_pass(stream_.get());
  }
}

// Copies of the first layer that is streamed run while the layers before it are computed.
void CudaBackend::begin_streaming(int64_t n_tokens) {
  const int64_t first = streamed_layer(std::max(layers_.begin, config_.dense_layers));
  // A single token's experts are the CPU's, as in the graph.
  streaming_ =
      prefill_.has_value() && first >= 0 && n_tokens > 1 && (n_tokens > tile_ || prefill_->is_for(n_tokens));
  if (streaming_) {
    caching_ = false;
    prefill_->begin_pass(first, n_tokens);
  }
}

int64_t CudaBackend::streamed_layer(int64_t layer) const {
  while (layer < whole_layers_ && is_resident(layer)) {
    ++layer;
  }
  return layer < whole_layers_ ? layer : -1;
}

void CudaBackend::correct_times(LayerTimes& times) {
  streaming_ = false;  // the pass was completed
  if (replays_) {
    clock_.read_layers(times);
  }
  if (clock_.has_blocks()) {
    clock_.read_blocks(whole_layers_, times.blocks);
    read_copies(times.blocks);
    read_cache_use(times.blocks);
  }
}

void CudaBackend::read_copies(BlockTimes& times) {
  if (prefill_.has_value()) {
    const CudaExpertStream::Copied copied = prefill_->copied();
    times.copied_bytes = copied.bytes - told_.bytes;
    times.copying_ns = copied.ns - told_.ns;
    told_ = copied;
  }
}

void CudaBackend::read_cache_use(BlockTimes& times) {
  if (expert_cache_.has_value()) {
    const CudaExpertCache::Use use = expert_cache_->use();
    times.cache_choices = use.choices - told_cache_use_.choices;
    times.cache_hits = use.hits - told_cache_use_.hits;
    told_cache_use_ = use;
  }
}

void CudaBackend::final_norm(RowRange rows) {
  float* const x = buffers_.residual + rows.begin * config_.d_model;
  cuda::rms_norm({.x = x,
                  .x_stride = config_.d_model,
                  .y = x,
                  .y_stride = config_.d_model,
                  .rows = rows.count,
                  .n = config_.d_model,
                  .mark = progress_.begin_of(CudaBlock::kHead, 0)},
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

std::optional<LogitCandidates> CudaBackend::candidates(int64_t row, const CandidateRequest& request) {
  const CudaRows x{residual_at({row, 1}), 1, config_.d_model};
  const CudaProduct product{weights_.output, {buffers_.logits, 1, config_.vocab_size}};
  products_.multiply({&product, 1}, x, stream_.get());
  return candidates_.find(buffers_.logits, config_.vocab_size, request, buffers_.sampling_scratch, stream_);
}

void CudaBackend::read_logits(std::span<float> logits) {
  cuda::check(cudaMemcpyAsync(logits.data(), buffers_.logits, logits.size_bytes(), cudaMemcpyDeviceToHost,
                              stream_.get()),
              "reading logits");
  stream_.synchronize();
}

}  // namespace sluice
