// What it costs to give work to all threads and to wait for them: our workers against a oneTBB arena. Every
// thread gets a piece of kPieceSteps; the time beyond that of one piece is latency.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/partitioner.h>
#include <oneapi/tbb/task_arena.h>

#include <cstdint>
#include <exception>
#include <vector>

#include "offload/barrier.h"
#include "offload/machine.h"
#include "offload/workers.h"

namespace sluice::offload {
namespace {

// Some 5 us: the share of a thread when the smaller loops of a token are split sixteen ways.
constexpr int64_t kPieceSteps = 4000;

void piece() {
  uint64_t x = 1;
  for (int64_t i = 0; i < kPieceSteps; ++i) benchmark::DoNotOptimize(x = x * 3 + 1);
}

/// The rival: as many ranges as threads, split once.
class TbbArena {
 public:
  explicit TbbArena(int threads)
      : threads_(threads),
        limit_(oneapi::tbb::global_control::max_allowed_parallelism, static_cast<size_t>(threads)),
        arena_(threads) {}

  void pieces() {
    arena_.execute([&] {
      oneapi::tbb::parallel_for(
          oneapi::tbb::blocked_range<int>(0, threads_, 1),
          [&](const oneapi::tbb::blocked_range<int>& part) {
            for (int i = part.begin(); i != part.end(); ++i) piece();
          },
          oneapi::tbb::static_partitioner{});
    });
  }

 private:
  int threads_;
  oneapi::tbb::global_control limit_;
  oneapi::tbb::task_arena arena_;
};

void one_piece(benchmark::State& state) {
  for (auto _ : state) piece();
}

template <int kLoops>
void loops_tbb(benchmark::State& state) {
  TbbArena arena(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    for (int loop = 0; loop < kLoops; ++loop) arena.pieces();
  }
}

template <int kLoops>
void loops_ours(benchmark::State& state) {
  Workers workers(place_threads(probe_machine(), state.range(0)));
  const ThreadBinding binding = workers.bind_caller();
  for (auto _ : state) {
    for (int loop = 0; loop < kLoops; ++loop) {
      workers.for_ranges(workers.threads(), 1, [](int64_t, int64_t, int64_t) { piece(); });
    }
  }
}

void barrier_ours(benchmark::State& state) {
  Workers workers(place_threads(probe_machine(), state.range(0)));
  const ThreadBinding binding = workers.bind_caller();
  Barrier barrier(workers.threads());
  for (auto _ : state) {
    workers.on_all([&](int64_t) {
      piece();
      barrier.arrive_and_wait();
      piece();
    });
  }
}

void register_all() {
  struct Case {
    const char* name;
    void (*run)(benchmark::State&);
  };
  // An MoE layer is two loops, gate and up, then down; or one job with a barrier in it.
  const Case cases[] = {{"loop/for_ranges", loops_ours<1>},
                        {"loop/oneTBB", loops_tbb<1>},
                        {"moe_layer/for_ranges", loops_ours<2>},
                        {"moe_layer/on_all_with_barrier", barrier_ours},
                        {"moe_layer/oneTBB", loops_tbb<2>}};
  const Machine machine = probe_machine();
  std::vector<int64_t> counts;
  for (int64_t threads = 2; threads < machine.cores; threads *= 2) counts.push_back(threads);
  counts.push_back(machine.cores);
  counts.push_back(machine.hardware_threads + 2);  // more than can run at once
  benchmark::RegisterBenchmark("one_piece", one_piece)->UseRealTime()->Unit(benchmark::kMicrosecond);
  for (const Case& c : cases) {
    for (const int64_t threads : counts) {
      benchmark::RegisterBenchmark(c.name, c.run)->Arg(threads)->UseRealTime()->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace
}  // namespace sluice::offload

int main(int argc, char** argv) {
  try {
    sluice::offload::register_all();
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "workers_bench: {}\n", error.what());
    return 1;
  }
}
