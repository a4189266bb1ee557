// Attention over a long context as the CPU backend runs it (engine/backends/latent_attention.h), at the shape
// of DeepSeek-V3.2: a decoded token sparse and dense, and a batch of queries, in one run on the same threads.
//   attention_bench --threads 2 --context 32768
// `of floor`: time that no code could beat on these threads (reading the rows, or the multiply-adds at the
// speed of a bare FMA loop, both measured here) over the measured time.
// The CPU time of all threads stands beside it: on a machine that others use too, its ratio is the one to
// look at.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <vector>

#include "bench/attention_speed.h"
#include "bench/floors.h"

namespace sluice::bench {
namespace {

void print(const AttentionOptions& options, const AttentionSpeed& speed,
           const std::vector<AttentionCase>& cases) {
  const auto threads = static_cast<double>(options.threads);
  const double flops = fma_flops_per_second(speed.isa()) * threads;
  const double bytes = read_bytes_per_second(speed.isa(), speed.rows()) * threads;
  fmt::print("{}, {} threads, context {}, bf16 cache; floors: {:.0f} GFLOP/s, {:.0f} GB/s\n",
             cpu::isa_name(speed.isa()), options.threads, options.context, flops * 1e-9, bytes * 1e-9);
  for (const AttentionCase& c : cases) {
    fmt::print("{:<20} {:9.3f} ms  {:7.1f} GFLOP/s  of floor {:.2f}  CPU time {:9.3f} ms\n", c.name,
               c.seconds * 1e3, c.flops / c.seconds * 1e-9,
               std::max(c.bytes / bytes, c.flops / flops) / c.seconds, c.cpu_seconds * 1e3);
  }
  fmt::print("dense / sparse, 1 token: {:.2f} (by CPU time {:.2f}, by operations alone {:.2f})\n",
             cases[1].seconds / cases[0].seconds, cases[1].cpu_seconds / cases[0].cpu_seconds,
             cases[1].flops / cases[0].flops);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::AttentionOptions options;
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
  sluice::bench::AttentionSpeed speed(options);
  sluice::bench::print(options, speed, speed.measure());
  return 0;
}
