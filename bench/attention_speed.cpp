#include "bench/attention_speed.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <random>

namespace sluice::bench {
namespace {

ModelConfig real_shape() {
  ModelConfig c;
  c.layers = 1;
  c.heads = 128;
  c.d_latent = 512;
  c.d_nope = 128;
  c.d_rope = 64;
  c.d_value = 128;
  c.index_heads = 64;
  c.d_index = 128;
  c.index_top_k = 2048;
  return c;
}

std::vector<float> normal(int64_t n, float deviation = 1.0F) {
  std::mt19937_64 engine(7);  // speed does not depend on the values; runs should not differ
  std::normal_distribution<float> distribution(0.0F, deviation);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) {
    value = distribution(engine);
  }
  return values;
}

double process_cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

AttentionScene::AttentionScene(const ModelConfig& config, const cpu::Kernels& kernels,
                               const AttentionOptions& options)
    : cache(config, options.context, CacheType::kBF16),
      heads(normal(options.batch * config.heads * config.d_cache(), 0.1F)),
      index_heads(normal(options.batch * config.index_heads * config.d_index)),
      index_weights(normal(options.batch * config.index_heads)),
      out(static_cast<size_t>(options.batch * config.heads * config.d_latent)),
      ids(static_cast<size_t>(options.batch)) {
  const std::vector<float> values = normal(options.context + config.d_cache());
  for (int64_t position = 0; position < options.context; ++position) {
    const auto row = std::span(values).subspan(static_cast<size_t>(position));
    cache.store_latent(kernels, 0, position, row.first(static_cast<size_t>(config.d_cache())));
    cache.store_index_key(kernels, 0, position, row.first(static_cast<size_t>(config.d_index)));
  }
}

AttentionSpeed::AttentionSpeed(const AttentionOptions& options)
    : options_(options),
      config_(real_shape()),
      kernels_(cpu::kernels_for(cpu::chosen_isa())),
      workers_(options.threads),
      scene_(config_, kernels_, options),
      attention_(config_, kernels_, workers_) {}

std::span<const std::byte> AttentionSpeed::rows() const {
  const cpu::CacheRows rows = scene_.cache.latent_rows(0);
  return {rows.data, static_cast<size_t>(options_.context * rows.row_bytes)};
}

/// The last `tokens` tokens of the context.
void AttentionSpeed::attend(int64_t tokens, AttentionMode mode) {
  const Batch batch{.ids = std::span(scene_.ids).first(static_cast<size_t>(tokens)),
                    .first_position = options_.context - tokens,
                    .attention = mode,
                    .cache = &scene_.cache};
  attention_.attend(0, batch,
                    {{scene_.heads.data(), tokens, config_.heads * config_.d_cache()},
                     {scene_.index_heads.data(), tokens, config_.index_heads * config_.d_index},
                     {scene_.index_weights.data(), tokens, config_.index_heads}},
                    {scene_.out.data(), tokens, config_.heads * config_.d_latent});
}

std::vector<AttentionCase> AttentionSpeed::cases() {
  const auto context = static_cast<double>(options_.context);
  const auto selected = static_cast<double>(std::min(options_.context, config_.index_top_k));
  const auto batch = static_cast<double>(options_.batch);
  const double index_pair = 2.0 * static_cast<double>(config_.index_heads * config_.d_index);
  const double pair = 2.0 * static_cast<double>(config_.heads * (config_.d_cache() + config_.d_latent));
  const double key_bytes = 2.0 * static_cast<double>(config_.d_index);
  const double row_bytes = 2.0 * static_cast<double>(config_.d_cache());
  const double sparse_flops = context * index_pair + selected * pair;
  const double sparse_bytes = context * key_bytes + selected * row_bytes;
  return {
      {"1 token, sparse", sparse_bytes, sparse_flops, [this] { attend(1, AttentionMode::kSparse); }},
      {"1 token, dense", context * row_bytes, context * pair, [this] { attend(1, AttentionMode::kDense); }},
      {fmt::format("{} tokens, sparse", options_.batch), sparse_bytes, batch * sparse_flops,
       [this] { attend(options_.batch, AttentionMode::kSparse); }}};
}

std::vector<AttentionCase> AttentionSpeed::measure() {
  std::vector<AttentionCase> all = cases();
  for (int64_t i = 0; i < options_.repeats; ++i) {
    for (AttentionCase& c : all) {
      const auto begin = std::chrono::steady_clock::now();
      const double cpu_begin = process_cpu_seconds();
      c.work();
      c.cpu_seconds = std::min(c.cpu_seconds, process_cpu_seconds() - cpu_begin);
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
      c.seconds = std::min(c.seconds, elapsed.count());
    }
  }
  return all;
}

}  // namespace sluice::bench
