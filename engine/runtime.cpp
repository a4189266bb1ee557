#include "engine/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "engine/backends/chosen_backend.h"
#include "engine/backends/gpu.h"
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

std::string_view prefill_name(Prefill prefill) {
  return prefill == Prefill::kAuto ? "auto" : prefill == Prefill::kCpu ? "cpu" : "stream";
}

BlockTimes BlockTimes::operator+(const BlockTimes& other) const {
  return {.layers = layers + other.layers,
          .attention_ns = attention_ns + other.attention_ns,
          .route_ns = route_ns + other.route_ns,
          .shared_ns = shared_ns + other.shared_ns,
          .experts_ns = experts_ns + other.experts_ns,
          .waiting_ns = waiting_ns + other.waiting_ns,
          .copied_bytes = copied_bytes + other.copied_bytes,
          .copying_ns = copying_ns + other.copying_ns,
          .cache_choices = cache_choices + other.cache_choices,
          .cache_hits = cache_hits + other.cache_hits};
}

BlockTimes BlockTimes::operator-(const BlockTimes& other) const {
  return {.layers = layers - other.layers,
          .attention_ns = attention_ns - other.attention_ns,
          .route_ns = route_ns - other.route_ns,
          .shared_ns = shared_ns - other.shared_ns,
          .experts_ns = experts_ns - other.experts_ns,
          .waiting_ns = waiting_ns - other.waiting_ns,
          .copied_bytes = copied_bytes - other.copied_bytes,
          .copying_ns = copying_ns - other.copying_ns,
          .cache_choices = cache_choices - other.cache_choices,
          .cache_hits = cache_hits - other.cache_hits};
}

namespace {

offload::ExpertTeamOptions team_options(const ModelConfig& config, const RuntimeOptions& options,
                                        cpu::Isa isa) {
  return {.d_model = config.d_model,
          .d_expert = config.d_expert,
          .used = config.router.experts_used,
          .max_tokens = most_cpu_tokens(options),
          .arithmetic = options.activations == Activations::kInt8 ? offload::ExpertArithmetic::kInt8
                                                                  : offload::ExpertArithmetic::kFloat32,
          .isa = isa};
}

using Clock = std::chrono::steady_clock;

int64_t ns_since(Clock::time_point begin) {
  return std::chrono::nanoseconds(Clock::now() - begin).count();
}

/// A pass that ends early, by a stop or an exception, is given up: a stream may wait for the experts, and
/// whatever frees memory of a GPU waits for the stream.
class Pass {
 public:
  explicit Pass(Backend& backend) : backend_(backend) {}
  ~Pass() {
    if (!completed_) {
      backend_.give_up_pass();
    }
  }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  void complete() { completed_ = true; }

 private:
  Backend& backend_;
  bool completed_ = false;
};

/// `options` with what depends on the memory that a GPU has left.
RuntimeOptions sized(const LoadedWeights& weights, const RuntimeOptions& options) {
  return weights.gpu() == nullptr
             ? options
             : sized_for_gpu(weights.model(), *weights.gpu(), weights.experts().weights(), options);
}

/// "passes of 32768 tokens, their experts streamed (6.5 GB under way) or computed by the CPU".
std::string prefill_text(const RuntimeOptions& options) {
  if (options.prefill == Prefill::kCpu) {
    return fmt::format("passes of {} tokens", options.max_batch);
  }
  return fmt::format("passes of {} tokens, their experts streamed ({:.2f} GB under way){}", options.max_batch,
                     static_cast<double>(options.staging_bytes) / 1e9,
                     options.prefill == Prefill::kAuto ? " or computed by the CPU" : "");
}

/// With the place where a GPU failed; CUDA tells the error to whoever comes next, which may be far from it.
[[noreturn]] void rethrow_with_place(const Error& error, const Backend& backend) {
  const std::string place = backend.failed_in();
  if (place.empty()) {
    throw;
  }
  throw Error(error.subject(), error.expected(),
              fmt::format("{}; the last block that began on the GPU: {}", error.found(), place));
}

/// Why a GPU that is there is left alone although nobody said so.
std::string unused_gpu(Device wish) {
  return wish == Device::kAuto ? find_gpu().notice : std::string();
}

}  // namespace

struct Runtime::Parts {
  /// `loaded` may be null: then they are loaded here.
  Parts(const Model& model, const RuntimeOptions& wish, const offload::Machine& machine,
        const LoadedWeights* loaded, const MakeBackend& make)
      : isa(cpu::chosen_isa()),
        workers(runtime_places(machine, wish.threads)),
        weights(loaded != nullptr ? *loaded : own_weights.emplace(model, wish, machine, workers)),
        options(sized(weights, wish)),
        experts(weights.experts().weights(), team_options(model.config(), options, isa), workers),
        backend(make({model, options, weights, isa, workers})) {}

  cpu::Isa isa;
  offload::Workers workers;
  std::optional<LoadedWeights> own_weights;
  const LoadedWeights& weights;
  RuntimeOptions options;  // resolved
  offload::ExpertTeam experts;
  std::unique_ptr<Backend> backend;
  std::vector<float> logits;  // [1 or n_tokens, vocab]; grows when all positions are asked for
};

namespace {

/// Streaming on request is done or refused.
void check_prefill(const Model& model, const RuntimeOptions& options) {
  if (options.prefill != Prefill::kStream) {
    return;
  }
  const auto refuse = [](const char* expected, const std::string& found) {
    throw Error("--prefill stream", expected, found);
  };
  if (options.device == Device::kCpu) {
    refuse("a GPU to copy experts to (--prefill cpu computes them where they lie)", "the CPU alone");
  }
  if (options.activations == Activations::kFloat32) {
    refuse("activations that may be rounded to bf16", "--exact");
  }
  if (options.expert_memory == ExpertMemory::kMapped) {
    refuse("experts in memory", fmt::format("--mmap, which leaves them in {}", model.path().string()));
  }
}

/// A cache on request is there or refused.
void check_expert_cache(const Model& model, const RuntimeOptions& options) {
  if (options.expert_cache_bytes == 0) {
    return;
  }
  if (options.device == Device::kCpu) {
    throw Error("--expert-cache", "a GPU", "the CPU alone");
  }
  if (options.expert_memory == ExpertMemory::kMapped) {
    throw Error("--expert-cache", "experts in memory",
                fmt::format("--mmap, which leaves them in {}", model.path().string()));
  }
}

/// What `make` returns. The large pieces are refused with their sizes before they are allocated; this is for
/// the many small ones, and for working memory.
template <typename Make>
auto within_memory(const Model& model, const RuntimeOptions& options, const Make& make) {
  try {
    return make();
  } catch (const std::bad_alloc&) {
    throw Error(
        model.path().string(),
        fmt::format("memory for its weights and for passes of {} tokens (a smaller -b or -ub takes less)",
                    std::max(options.max_batch, options.tile)),
        fmt::format("{:.2f} GB available, which did not suffice",
                    static_cast<double>(offload::available_memory_bytes()) / 1e9));
  }
}

}  // namespace

RuntimeOptions checked_options(const Model& model, RuntimeOptions options) {
  if (options.threads == 0) {
    options.threads = offload::probe_machine().cores;
  }
  if (options.threads < 1 || options.threads > 1024) {
    throw Error("-t/--threads", "1 to 1024", std::to_string(options.threads));
  }
  if (options.tile < 1 || options.tile > 65536) {
    throw Error("-ub/--ubatch-size", "1 to 65536", std::to_string(options.tile));
  }
  if (options.max_batch < 0 || options.max_batch > 65536) {
    throw Error("-b/--batch-size", "1 to 65536 (0 = chosen)", std::to_string(options.max_batch));
  }
  if (options.attention == AttentionMode::kSparse && !model.config().has_indexer) {
    throw Error(model.path().string(), "indexer tensors, which --attention sparse needs",
                "none; --attention dense runs without them");
  }
  options.device = chosen_device(options.device);
  assert(options.first_gpu_layer >= 0 && options.first_gpu_layer <= model.config().layers);
  assert(options.gpu_expert_layers.empty() ||
         (options.device == Device::kGpu && options.gpu_expert_layers.front() >= options.first_gpu_layer));
  check_prefill(model, options);
  check_expert_cache(model, options);
  if (options.device == Device::kCpu) {
    options.max_batch = options.max_batch == 0 ? options.tile : options.max_batch;
    options.tile = options.max_batch;
    options.prefill = Prefill::kCpu;
  }
  return options;
}

Runtime::Runtime(const Model& model, const RuntimeOptions& options)
    : model_(model), options_(checked_options(model, options)), unused_gpu_(unused_gpu(options.device)) {
  parts_ = within_memory(model_, options_, [&] {
    return std::make_unique<Parts>(model_, options_, offload::probe_machine(), nullptr, chosen_backend);
  });
  options_ = parts_->options;
  options_.load_progress = nullptr;
  options_.load_stop = {};
}

Runtime::Runtime(const LoadedWeights& weights, const RuntimeOptions& options)
    : Runtime(weights, options, chosen_backend) {}

Runtime::Runtime(const LoadedWeights& weights, const RuntimeOptions& options, const MakeBackend& make)
    : model_(weights.model()),
      options_(checked_options(weights.model(), options)),
      unused_gpu_(unused_gpu(options.device)) {
  assert(weights.suit(options));  // what they were loaded for is the caller's choice
  parts_ = within_memory(model_, options_, [&] {
    return std::make_unique<Parts>(model_, options_, offload::probe_machine(), &weights, make);
  });
  options_ = parts_->options;
  options_.load_progress = nullptr;
  options_.load_stop = {};
}

Runtime::~Runtime() = default;

std::string Runtime::description() const {
  const std::string attention =
      options_.attention == AttentionMode::kSparse
          ? fmt::format("sparse attention (top {} by the indexer)", model_.config().index_top_k)
          : std::string("dense attention");
  const GpuWeights* const gpu = parts_->weights.gpu();
  const ModelParts parts = parts_of(model_.config(), options_);
  const std::string others = parts.divided() ? fmt::format(", {}", division_text(parts)) : std::string(";");
  const std::string before =
      gpu != nullptr ? fmt::format("{}{} experts on the ", gpu->description(), others) : std::string();
  const std::string passes = gpu != nullptr ? fmt::format("; {}", prefill_text(options_)) : std::string();
  const std::string cache =
      options_.expert_cache_bytes > 0
          ? fmt::format("; {:.2f} GB of its memory for the experts that recent tokens chose most",
                        static_cast<double>(options_.expert_cache_bytes) / 1e9)
          : std::string();
  const std::string after = unused_gpu_.empty() ? std::string() : fmt::format(" ({})", unused_gpu_);
  return fmt::format("{}CPU{}, {} thread{}, {} kernels with {} activations, {}, {}{}{}", before, after,
                     options_.threads, options_.threads == 1 ? "" : "s", cpu::isa_name(parts_->isa),
                     options_.activations == Activations::kInt8 ? "int8" : "float32",
                     parts_->weights.experts().description(), attention, passes, cache);
}

std::string Runtime::notice() const {
  const GpuHostMemory* const memory = parts_->weights.gpu_host_memory();
  return memory == nullptr ? std::string() : page_lock_notice(memory->page_lock());
}

std::unique_ptr<KvCache> Runtime::make_cache(int64_t capacity, CacheType type) {
  return parts_->backend->make_cache(capacity, type);
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
  try {
    return run_layers(request, cache);
  } catch (const Error& error) {
    rethrow_with_place(error, *parts_->backend);
  }
}

// The model specification's section 2, one line per block.
Runtime::Result Runtime::run_layers(const ForwardRequest& request, KvCache& cache) {
  const offload::ThreadBinding binding = parts_->workers.bind_caller();
  const ModelConfig& config = model_.config();
  Backend& backend = *parts_->backend;
  ForwardObserver* const observer = request.observer;
  const int64_t first = request.first_position;
  Batch batch{request.ids, first, options_.attention, &cache, observer, request.stop};
  batch.narrows = batch.n_tokens() > 1 && request.logits != Logits::kAll && observer == nullptr;

  LayerTimes cpu_times;  // of layers before a GPU's
  LayerTimes backend_times;
  LayerTimes narrow_times;  // of the last layer for one of several tokens, which is like no other
  Pass pass(backend);
  backend.embed(batch);
  if (observer != nullptr) {
    observer->embedding(first, backend.residual(batch.n_tokens()));
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const Clock::time_point begin = Clock::now();
    const bool narrows = batch.narrows && layer + 1 == config.layers;
    LayerTimes& times = narrows ? narrow_times : layer < options_.first_gpu_layer ? cpu_times : backend_times;
    if (request.stop.stop_requested()) {
      return {.completed = false, .logits = {}};
    }
    if (narrows) {
      backend.keep_last_token(layer, batch);
      batch = batch.last_token();
    }
    backend.attention(layer, batch);
    if (config.is_dense_layer(layer)) {
      backend.dense_ffn(layer, batch.n_tokens());
    } else {
      times.blocks.attention_ns += ns_since(begin);
      run_moe_layer(layer, request, batch, times.blocks);
      if (request.stop.stop_requested()) {  // perhaps in the middle of its experts
        return {.completed = false, .logits = {}};
      }
    }
    (config.is_dense_layer(layer) ? times.dense_ns : times.moe_ns) += ns_since(begin);
    ++(config.is_dense_layer(layer) ? times.dense_layers : times.moe_layers);
    if (observer != nullptr) {
      observer->layer_output(layer, first, backend.residual(batch.n_tokens()));
    }
    if (request.progress) {
      request.progress(layer + 1);
    }
  }
  pass.complete();
  Result result = head(request, batch.n_tokens());
  backend.correct_times(backend_times);
  backend_times.passes = 1;
  cpu_times.blocks = {};
  if (!options_.profile) {
    backend_times.blocks = {};
  }
  layer_times_ = layer_times_ + cpu_times + backend_times;
  return result;
}

// The half of an MoE layer behind its attention.
void Runtime::run_moe_layer(int64_t layer, const ForwardRequest& request, const Batch& batch,
                            BlockTimes& times) {
  Backend& backend = *parts_->backend;
  Clock::time_point begin = Clock::now();
  const auto lap = [&](int64_t& total) {
    total += ns_since(begin);
    begin = Clock::now();
  };
  ++times.layers;
  if (backend.computes_experts(layer)) {
    const std::optional<Backend::Routed> left = backend.routed_ffn(layer, batch);
    lap(times.shared_ns);
    if (left.has_value()) {
      parts_->experts.add(layer, left->f, left->routes, left->sum);
      lap(times.experts_ns);
      backend.finish_experts(layer, batch.n_tokens());
    }
    return;
  }
  const Backend::Routed routed = backend.route(layer, batch.n_tokens());
  if (request.observer != nullptr) {
    request.observer->routes(layer, request.first_position, routed.routes);
  }
  lap(times.route_ns);
  parts_->experts.add(layer, routed.f, routed.routes, routed.sum);
  lap(times.experts_ns);
  backend.finish_experts(layer, batch.n_tokens());
  lap(times.shared_ns);
}

// Of the tokens that are left.
Runtime::Result Runtime::head(const ForwardRequest& request, int64_t n_tokens) {
  const int64_t vocab = model_.config().vocab_size;
  if (request.logits == Logits::kNone && request.observer == nullptr) {
    return {};
  }
  // Only the rows that somebody asked for go through the norm and the head.
  const RowRange all{0, n_tokens};
  const RowRange last{n_tokens - 1, 1};
  const bool last_only = request.logits != Logits::kAll && request.observer == nullptr;
  parts_->backend->final_norm(last_only ? last : all);
  if (request.observer != nullptr) {
    request.observer->final_norm(request.first_position, parts_->backend->residual(n_tokens));
  }
  if (request.logits == Logits::kNone) {
    return {};
  }
  if (request.logits == Logits::kLast && request.candidates.has_value()) {
    auto candidates = parts_->backend->candidates(last.begin, *request.candidates);
    if (candidates.has_value()) {
      return {.logits = {}, .candidates = std::move(candidates)};
    }
  }
  const RowRange rows = request.logits == Logits::kAll ? all : last;
  parts_->logits.resize(std::max(parts_->logits.size(), static_cast<size_t>(rows.count * vocab)));
  const MatrixView<float> logits(parts_->logits.data(), rows.count, vocab);
  parts_->backend->head(rows, logits);
  return {.logits = logits};
}

std::span<const float> Runtime::read_logits() {
  const auto vocab = static_cast<size_t>(model_.config().vocab_size);
  parts_->logits.resize(std::max(parts_->logits.size(), vocab));
  const std::span<float> logits = std::span(parts_->logits).first(vocab);
  parts_->backend->read_logits(logits);
  return logits;
}

}  // namespace sluice
