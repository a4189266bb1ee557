#include "engine/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <optional>

#include "engine/backends/cpu_backend.h"
#include "engine/loaded_weights.h"
#include "kernels_cpu/kernels_cpu.h"
#include "offload/expert_team.h"
#include "offload/machine.h"
#include "offload/workers.h"
#include "quant/base/error.h"

namespace sluice {

std::string_view attention_mode_name(AttentionMode mode) {
  return mode == AttentionMode::kSparse ? "sparse" : "dense";
}

namespace {

offload::ExpertTeamOptions team_options(const ModelConfig& config, const RuntimeOptions& options,
                                        cpu::Isa isa) {
  return {.d_model = config.d_model,
          .d_expert = config.d_expert,
          .used = config.router.experts_used,
          .max_tokens = options.max_batch,
          .arithmetic = options.activations == Activations::kInt8 ? offload::ExpertArithmetic::kInt8
                                                                  : offload::ExpertArithmetic::kFloat32,
          .isa = isa};
}

}  // namespace

struct Runtime::Parts {
  /// `loaded` may be null: then they are loaded here.
  Parts(const Model& model, const RuntimeOptions& options, const offload::Machine& machine,
        const LoadedWeights* loaded)
      : isa(cpu::chosen_isa()),
        workers(runtime_places(machine, options.threads)),
        weights(loaded != nullptr ? *loaded : own_weights.emplace(model, options, machine, workers)),
        experts(weights.experts().weights(), team_options(model.config(), options, isa), workers),
        backend(model, options, weights.panels(), isa, workers),
        residual(static_cast<size_t>(options.max_batch * model.config().d_model)) {}

  cpu::Isa isa;
  offload::Workers workers;
  std::optional<LoadedWeights> own_weights;
  const LoadedWeights& weights;
  offload::ExpertTeam experts;
  CpuBackend backend;
  std::vector<float> residual;  // [max_batch, d_model]: the stream that all layers add to
  std::vector<float> logits;    // [1 or n_tokens, vocab]; grows when all positions are asked for
};

RuntimeOptions checked_options(const Model& model, RuntimeOptions options) {
  if (options.threads == 0) {
    options.threads = offload::probe_machine().cores;
  }
  if (options.threads < 1 || options.threads > 1024) {
    throw Error("-t/--threads", "1 to 1024", std::to_string(options.threads));
  }
  if (options.max_batch < 1 || options.max_batch > 65536) {
    throw Error("-ub/--ubatch-size", "1 to 65536", std::to_string(options.max_batch));
  }
  if (options.attention == AttentionMode::kSparse && !model.config().has_indexer) {
    throw Error(model.path().string(), "indexer tensors, which --attention sparse needs",
                "none; --attention dense runs without them");
  }
  return options;
}

Runtime::Runtime(const Model& model, const RuntimeOptions& options)
    : model_(model), options_(checked_options(model, options)) {
  parts_ = std::make_unique<Parts>(model_, options_, offload::probe_machine(), nullptr);
  options_.load_progress = nullptr;
  options_.load_stop = {};
}

Runtime::Runtime(const LoadedWeights& weights, const RuntimeOptions& options)
    : model_(weights.model()), options_(checked_options(weights.model(), options)) {
  assert(weights.suit(options));  // what they were loaded for is the caller's choice
  parts_ = std::make_unique<Parts>(model_, options_, offload::probe_machine(), &weights);
  options_.load_progress = nullptr;
  options_.load_stop = {};
}

Runtime::~Runtime() = default;

std::string Runtime::description() const {
  const std::string attention =
      options_.attention == AttentionMode::kSparse
          ? fmt::format("sparse attention (top {} by the indexer)", model_.config().index_top_k)
          : std::string("dense attention");
  return fmt::format("CPU, {} thread{}, {} kernels with {} activations, {}, {}", options_.threads,
                     options_.threads == 1 ? "" : "s", cpu::isa_name(parts_->isa),
                     options_.activations == Activations::kInt8 ? "int8" : "float32",
                     parts_->weights.experts().description(), attention);
}

Runtime::Result Runtime::forward(const ForwardRequest& request, KvCache& cache) {
  const ModelConfig& config = model_.config();
  const auto n = static_cast<int64_t>(request.ids.size());
  if (n < 1 || n > options_.max_batch) {
    throw Error("forward pass", fmt::format("1 to {} tokens", options_.max_batch), std::to_string(n));
  }
  if (request.first_position < 0 || request.first_position + n > cache.capacity()) {
    throw Error("-c/--ctx-size", fmt::format("room for {} tokens", request.first_position + n),
                fmt::format("a context of {}", cache.capacity()));
  }
  for (const int32_t id : request.ids) {
    if (id < 0 || id >= config.vocab_size) {
      throw Error("token id", fmt::format("0 to {}", config.vocab_size - 1), std::to_string(id));
    }
  }
  return run_layers(request, cache);
}

// The model specification's section 2, one line per block.
Runtime::Result Runtime::run_layers(const ForwardRequest& request, KvCache& cache) {
  const offload::ThreadBinding binding = parts_->workers.bind_caller();
  const ModelConfig& config = model_.config();
  Backend& backend = parts_->backend;
  ForwardObserver* const observer = request.observer;
  const int64_t first = request.first_position;
  const Batch batch{request.ids, first, options_.attention, &cache, observer};
  const MatrixView<float> x(parts_->residual.data(), batch.n_tokens(), config.d_model);

  backend.embed(batch, x);
  if (observer != nullptr) {
    observer->embedding(first, x);
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const auto begin = std::chrono::steady_clock::now();
    if (request.stop.stop_requested()) {
      return {.completed = false, .logits = {}};
    }
    backend.attention(layer, batch, x);
    if (config.is_dense_layer(layer)) {
      backend.dense_ffn(layer, x);
    } else {
      const Backend::Routed routed = backend.route(layer, x);
      if (observer != nullptr) {
        observer->routes(layer, first, routed.routes);
      }
      parts_->experts.add(layer, routed.f, routed.routes, x);
      backend.shared_expert(layer, routed.f, x);
    }
    const std::chrono::nanoseconds taken = std::chrono::steady_clock::now() - begin;
    (config.is_dense_layer(layer) ? layer_times_.dense_ns : layer_times_.moe_ns) += taken.count();
    if (observer != nullptr) {
      observer->layer_output(layer, first, x);
    }
  }
  return {.completed = true, .logits = head(request, x)};
}

MatrixView<const float> Runtime::head(const ForwardRequest& request, MatrixView<float> x) {
  const int64_t vocab = model_.config().vocab_size;
  if (request.logits == Logits::kNone && request.observer == nullptr) {
    return {};
  }
  // Only the rows that somebody asked for go through the norm and the head.
  const bool last_only = request.logits != Logits::kAll && request.observer == nullptr;
  const MatrixView<float> normed = last_only ? x.rows_from(x.rows - 1, 1) : x;
  parts_->backend.final_norm(normed);
  if (request.observer != nullptr) {
    request.observer->final_norm(request.first_position, normed);
  }
  if (request.logits == Logits::kNone) {
    return {};
  }
  const MatrixView<float> rows =
      request.logits == Logits::kAll ? normed : normed.rows_from(normed.rows - 1, 1);
  parts_->logits.resize(std::max(parts_->logits.size(), static_cast<size_t>(rows.rows * vocab)));
  const MatrixView<float> logits(parts_->logits.data(), rows.rows, vocab);
  parts_->backend.head(rows, logits);
  return logits;
}

}  // namespace sluice
