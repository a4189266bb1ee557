// Attention over a long context as the CPU backend runs it (engine/backends/latent_attention.h), at the shape
// of DeepSeek-V3.2: a decoded token sparse and dense, and a batch of queries, in one run on the same threads.
//   attention_bench --threads 2 --context 32768
// `of floor`: time that no code could beat on these threads (reading the rows, or the multiply-adds at the
// speed of a bare FMA loop, both measured here) over the measured time.
// The CPU time of all threads stands beside it: on a machine that others use too, its ratio is the one to
// look at.
#include <fmt/format.h>
#include <time.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "bench/floors.h"
#include "engine/backends/latent_attention.h"

namespace sluice::bench {
namespace {

struct Options {
  int64_t threads = 2;
  int64_t context = 32768;
  int64_t batch = 64;
  int64_t repeats = 20;
};

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

/// One layer's cache, filled, and the queries of a batch.
struct Scene {
  Scene(const ModelConfig& config, const cpu::Kernels& kernels, const Options& options)
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

  KvCache cache;
  std::vector<float> heads;
  std::vector<float> index_heads;
  std::vector<float> index_weights;
  std::vector<float> out;
  std::vector<int32_t> ids;
};

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        workers_(options.threads),
        scene_(config_, kernels_, options),
        attention_(config_, kernels_, workers_) {}

  void run();

 private:
  struct Case {
    std::string name;
    double bytes;  // read at least once
    double flops;
    std::function<void()> work;
    double seconds = std::numeric_limits<double>::infinity();
    double cpu_seconds = std::numeric_limits<double>::infinity();  // of all threads together
  };

  void attend(int64_t tokens, AttentionMode mode);
  [[nodiscard]] std::vector<Case> cases();
  void print(const std::vector<Case>& cases) const;

  Options options_;
  ModelConfig config_ = real_shape();
  const cpu::Kernels& kernels_ = cpu::kernels_for(cpu::chosen_isa());
  offload::Workers workers_;
  Scene scene_;
  LatentAttention attention_;
};

/// The last `tokens` tokens of the context.
void Bench::attend(int64_t tokens, AttentionMode mode) {
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

std::vector<Bench::Case> Bench::cases() {
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

void Bench::print(const std::vector<Case>& cases) const {
  const auto threads = static_cast<double>(options_.threads);
  const double flops = fma_flops_per_second(kernels_.isa) * threads;
  const std::span<const std::byte> rows(
      scene_.cache.latent_rows(0).data,
      static_cast<size_t>(options_.context * scene_.cache.latent_rows(0).row_bytes));
  const double bytes = read_bytes_per_second(kernels_.isa, rows) * threads;
  fmt::print("{}, {} threads, context {}, bf16 cache; floors: {:.0f} GFLOP/s, {:.0f} GB/s\n",
             cpu::isa_name(kernels_.isa), options_.threads, options_.context, flops * 1e-9, bytes * 1e-9);
  for (const Case& c : cases) {
    fmt::print("{:<20} {:9.3f} ms  {:7.1f} GFLOP/s  of floor {:.2f}  CPU time {:9.3f} ms\n", c.name,
               c.seconds * 1e3, c.flops / c.seconds * 1e-9,
               std::max(c.bytes / bytes, c.flops / flops) / c.seconds, c.cpu_seconds * 1e3);
  }
  fmt::print("dense / sparse, 1 token: {:.2f} (by CPU time {:.2f}, by operations alone {:.2f})\n",
             cases[1].seconds / cases[0].seconds, cases[1].cpu_seconds / cases[0].cpu_seconds,
             cases[1].flops / cases[0].flops);
}

void Bench::run() {
  std::vector<Case> all = cases();
  // In turn, so that a noisy moment meets every case alike; the best of each counts.
  for (int64_t i = 0; i < options_.repeats; ++i) {
    for (Case& c : all) {
      const auto begin = std::chrono::steady_clock::now();
      const double cpu_begin = process_cpu_seconds();
      c.work();
      c.cpu_seconds = std::min(c.cpu_seconds, process_cpu_seconds() - cpu_begin);
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
      c.seconds = std::min(c.seconds, elapsed.count());
    }
  }
  print(all);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::Options options;
  CLI::App app("Sparse and dense attention of the CPU backend at the shape of DeepSeek-V3.2");
  app.add_option("--threads", options.threads, "Workers")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--context", options.context, "Tokens in the cache")
      ->check(CLI::Range(64, 1 << 20))
      ->capture_default_str();
  app.add_option("--batch", options.batch, "Queries of the batch")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--repeats", options.repeats, "Runs of each; the best counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  options.batch = std::min(options.batch, options.context);
  sluice::bench::Bench(options).run();
  return 0;
}
