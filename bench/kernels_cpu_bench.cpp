// Speed of the kernels on one thread, beside their floors measured in the same run.
// Counters: GFLOP/s, Gweights/s or Mkeys/s where they say something, `of_floor` = floor time / measured time.
//   kernels_cpu_bench --benchmark_filter=matmul/Q8_0     SLUICE_CPU_ISA=avx2 chooses another instruction set
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "bench/floors.h"
#include "bench/panel_cases.h"
#include "kernels_cpu/kernels_cpu.h"
#include "quant/block_codec.h"

namespace sluice::bench {
namespace {

using benchmark::Counter;
using benchmark::State;
using quant::DType;

constexpr uint64_t kSeed = 7;  // speed does not depend on the values; runs should not differ

std::vector<float> normal(int64_t n) {
  std::mt19937_64 engine(kSeed);
  std::normal_distribution<float> distribution;
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) {
    value = distribution(engine);
  }
  return values;
}

/// Rows of small random numbers; formats without an encoder get random codes and finite scales.
std::vector<std::byte> weights_of(DType dtype, int64_t n) {
  std::vector<std::byte> bytes(static_cast<size_t>(quant::row_bytes(dtype, n)), std::byte{0x21});
  if (quant::can_quantize(dtype)) {
    quant::quantize_row(dtype, normal(n), bytes);
  }
  return bytes;
}

void report(State& state, double floor, double flops) {
  const auto calls = static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = Counter(flops * calls * 1e-9, Counter::kIsRate);
  // A rate counter divides by the elapsed time, which turns seconds at best into their share.
  state.counters["of_floor"] = Counter(floor * calls, Counter::kIsRate);
}

struct MatmulCase {
  DType dtype;
  int64_t tokens;
  int64_t rows;
  int64_t cols;
};

void matmul(State& state, const MatmulCase& c) {
  const cpu::Isa isa = cpu::chosen_isa();
  const std::vector<std::byte> weights = weights_of(c.dtype, c.rows * c.cols);
  const std::vector<float> x = normal(c.tokens * c.cols);
  std::vector<float> y(static_cast<size_t>(c.tokens * c.rows));
  std::vector<float> scratch(static_cast<size_t>(cpu::matmul_scratch_floats(c.cols)));
  const quant::WeightView w{c.dtype, weights.data(), c.rows, c.cols, quant::row_bytes(c.dtype, c.cols), 1.0F};
  for (auto _ : state) {
    cpu::matmul_rows(cpu::kernels_for(isa), w, 0, c.rows, {x.data(), c.tokens, c.cols},
                     {y.data(), c.tokens, c.rows}, scratch);
    benchmark::ClobberMemory();
  }
  const auto n_weights = static_cast<double>(c.rows * c.cols);
  const double flops = 2.0 * n_weights * static_cast<double>(c.tokens);
  report(state, floor_seconds(isa, weights, static_cast<double>(weights.size()), flops), flops);
  state.counters["Gweights/s"] =
      Counter(n_weights * 1e-9 * static_cast<double>(state.iterations()), Counter::kIsRate);
}

/// heads x 256 selected rows of the shape that DeepSeek-V3.2 caches: 512 latent and 64 rope columns, bf16.
void mla_attend(State& state, int64_t heads) {
  constexpr int64_t kRows = 256;
  constexpr int64_t kCols = 576;
  constexpr int64_t kLatent = 512;
  const cpu::Isa isa = cpu::chosen_isa();
  const std::vector<std::byte> cache = weights_of(DType::kBF16, kRows * kCols);
  const std::vector<float> query = normal(heads * kCols);
  std::vector<float> out(static_cast<size_t>(heads * kLatent));
  std::vector<float> scratch(static_cast<size_t>(cpu::mla_scratch_floats(heads, kCols)));
  const cpu::CacheRows rows{cpu::RowFormat::kBF16, cache.data(), kCols, 2 * kCols};
  for (auto _ : state) {
    cpu::mla_attend(cpu::kernels_for(isa), {{query.data(), heads, kCols}, rows, {{}, kRows}, 0.1352F},
                    {out.data(), heads, kLatent}, scratch);
    benchmark::ClobberMemory();
  }
  const double flops = 2.0 * static_cast<double>(heads * kRows * (kCols + kLatent));
  report(state, floor_seconds(isa, cache, static_cast<double>(cache.size()), flops), flops);
}

struct IndexCase {
  int64_t keys;
  int64_t queries;
};

void index_scores(State& state, const IndexCase& c) {
  constexpr int64_t kHeads = 64;
  constexpr int64_t kDim = 128;
  const cpu::Isa isa = cpu::chosen_isa();
  const std::vector<std::byte> cache = weights_of(DType::kBF16, c.keys * kDim);
  const std::vector<float> query = normal(c.queries * kHeads * kDim);
  const std::vector<float> weights = normal(c.queries * kHeads);
  std::vector<float> scores(static_cast<size_t>(c.queries * c.keys));
  std::vector<float> scratch(static_cast<size_t>(cpu::index_scratch_floats(kHeads, kDim)));
  const cpu::CacheRows keys{cpu::RowFormat::kBF16, cache.data(), kDim, 2 * kDim};
  for (auto _ : state) {
    cpu::index_scores(cpu::kernels_for(isa),
                      {{query.data(), c.queries, kHeads * kDim}, {weights.data(), c.queries, kHeads}}, keys,
                      {scores.data(), c.queries, c.keys}, scratch);
    benchmark::ClobberMemory();
  }
  const double flops = 2.0 * static_cast<double>(c.queries * c.keys * kHeads * kDim);
  report(state, floor_seconds(isa, cache, static_cast<double>(cache.size()), flops), flops);
  const auto pairs = static_cast<double>(c.keys * c.queries * state.iterations());
  state.counters["Mkeys/s"] = Counter(pairs * 1e-6, Counter::kIsRate);
}

/// The 2048 best of n scores; the floor is reading them once.
void top_k(State& state, int64_t n) {
  const cpu::Isa isa = cpu::chosen_isa();
  const std::vector<float> scores = normal(n);
  std::vector<int32_t> selected(2048);
  std::vector<int32_t> scratch(static_cast<size_t>(cpu::top_k_scratch(n)));
  for (auto _ : state) {
    benchmark::DoNotOptimize(cpu::top_k(cpu::kernels_for(isa), scores, 2048, selected, scratch));
    benchmark::ClobberMemory();
  }
  const std::span<const std::byte> bytes = std::as_bytes(std::span(scores));
  report(state, floor_seconds(isa, bytes, static_cast<double>(bytes.size()), 0.0), 0.0);
}

void register_all() {
  for (const auto& info : quant::all_dtypes()) {
    if (!quant::can_dequantize(info.dtype)) {
      continue;
    }
    for (const int64_t tokens : {1, 64, 256}) {
      for (const MatmulCase& c :
           {MatmulCase{info.dtype, tokens, 2048, 512}, {info.dtype, tokens, 256, 7168}}) {
        const std::string name = fmt::format("matmul/{}/m={}/{}x{}", info.name, tokens, c.rows, c.cols);
        benchmark::RegisterBenchmark(name.c_str(), matmul, c);
      }
    }
  }
  for (const int64_t heads : {8, 128}) {
    benchmark::RegisterBenchmark(fmt::format("mla_attend/heads={}", heads).c_str(), mla_attend, heads);
  }
  for (const int64_t keys : {2048, 32768}) {
    for (const int64_t queries : {int64_t{1}, cpu::kMaxIndexQueries}) {
      benchmark::RegisterBenchmark(fmt::format("index_scores/keys={}/queries={}", keys, queries).c_str(),
                                   index_scores, IndexCase{keys, queries});
    }
  }
  for (const int64_t n : {8192, 32768, 131072}) {
    benchmark::RegisterBenchmark(fmt::format("top_k/n={}", n).c_str(), top_k, n);
  }
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  const sluice::cpu::Isa isa = sluice::cpu::chosen_isa();
  fmt::print(stderr, "isa {}: f32 FMA peak {:.1f} GFLOP/s\n", sluice::cpu::isa_name(isa),
             sluice::bench::fma_flops_per_second(isa) * 1e-9);
  sluice::bench::register_all();
  sluice::bench::register_panel_cases();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 2;
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
