// How fast experts come from a file into panels, beside the same threads reading the same bytes past the page
// cache and doing nothing with them: load_speed MODEL [--threads N] [--repeats R]. Loading meets memory that
// the system has at hand.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bench/timing.h"
#include "engine/memory_need.h"
#include "engine/routed_experts.h"
#include "offload/arena.h"
#include "offload/machine.h"
#include "quant/base/error.h"

namespace sluice::bench {
namespace {

constexpr int64_t kRead = 16 << 20;
constexpr int64_t kPage = 4096;

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<std::byte, Free>;

/// The last `bytes` of a file, where the experts of its layers are, read directly. GB/s.
double read_gb_per_s(const std::string& path, int64_t bytes, offload::Workers& workers) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (file < 0) throw Error(path, "a file that can be read directly", system_error_text(errno));
  const int64_t first = (lseek(file, 0, SEEK_END) - bytes) / kPage * kPage;
  std::vector<Buffer> buffers;
  for (int64_t i = 0; i < workers.threads(); ++i) {
    buffers.emplace_back(static_cast<std::byte*>(std::aligned_alloc(kPage, kRead)));
  }
  const int64_t reads = bytes / kRead;
  const double seconds = seconds_of([&] {
    workers.for_ranges(reads, 1, [&](int64_t piece, int64_t, int64_t worker) {
      if (pread(file, buffers[static_cast<size_t>(worker)].get(), kRead, first + piece * kRead) != kRead) {
        throw Error(path, "whole reads", system_error_text(errno));
      }
    });
  });
  close(file);
  return static_cast<double>(reads * kRead) / 1e9 / seconds;
}

/// Takes so much memory, writes to all of it and lets it go. GB/s. In a virtual machine this may be slower
/// than a disk the first time, because the host gives memory only when it is touched; what is taken next then
/// is there already.
double touch_gb_per_s(int64_t bytes, offload::Workers& workers) {
  offload::Arena arena(bytes, {.purpose = "a test of memory", .huge_pages = offload::HugePages::kOn});
  const std::span<std::byte> memory = arena.bytes();
  const double seconds = seconds_of([&] {
    workers.for_ranges(bytes / kPage, kRead / kPage, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t page = begin; page < end; ++page) {
        memory[static_cast<size_t>(page * kPage)] = std::byte{1};
      }
    });
  });
  return static_cast<double>(bytes) / 1e9 / seconds;
}

/// Processor time of all threads so far.
struct ProcessorSeconds {
  double user = 0;
  double system = 0;
};

ProcessorSeconds processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return {.user = seconds(usage.ru_utime), .system = seconds(usage.ru_stime)};
}

struct Load {
  double gb_per_s = 0;
  ProcessorSeconds processor;
};

/// Until the experts are there; letting them go is not counted.
Load load(const Model& model, const offload::Machine& machine, offload::Workers& workers) {
  offload::LoadProgress last;
  RuntimeOptions options;
  options.load_progress = [&](const offload::LoadProgress& progress) { last = progress; };
  const ProcessorSeconds before = processor_seconds();
  const RoutedExperts experts(model, options, machine, workers);
  const ProcessorSeconds after = processor_seconds();
  return {.gb_per_s = last.gb_per_s,
          .processor = {.user = after.user - before.user, .system = after.system - before.system}};
}

void run(const std::string& path, int64_t threads, int64_t repeats) {
  const Model model = Model::load(path);
  const offload::Machine machine = offload::probe_machine();
  offload::Workers workers(threads > 0 ? threads : machine.cores);
  const int64_t bytes = expert_bytes(model.weights());
  fmt::print("{}: {:.2f} GB of experts, {} threads\n", path, static_cast<double>(bytes) / 1e9,
             workers.threads());
  std::vector<double> ratios;
  for (int64_t i = 0; i < repeats; ++i) {  // in turns, so that a disturbance meets both
    const double floor = read_gb_per_s(path, bytes, workers);
    const double touch = touch_gb_per_s(bytes, workers);
    const Load loaded = load(model, machine, workers);
    ratios.push_back(loaded.gb_per_s / floor);
    fmt::print(
        "direct reads {:.2f} GB/s, new memory {:.2f} GB/s, loading {:.2f} GB/s, ratio {:.2f}; loading took "
        "{:.2f} s of processors in the program, {:.2f} s in the system: {:.2f} GB/s a core\n",
        floor, touch, loaded.gb_per_s, ratios.back(), loaded.processor.user, loaded.processor.system,
        static_cast<double>(bytes) / 1e9 / (loaded.processor.user + loaded.processor.system));
    std::fflush(stdout);
  }
  fmt::print("median ratio {:.2f}\n", median(ratios));
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  CLI::App app("Speed of loading experts beside direct reads of the same bytes");
  std::string model;
  int64_t threads = 0;
  int64_t repeats = 5;
  app.add_option("MODEL", model, "GGUF file of one shard, larger than any cache")->required();
  app.add_option("--threads", threads, "0 = all physical cores (default 0)");
  app.add_option("--repeats", repeats, "Turns (default 5)");
  CLI11_PARSE(app, argc, argv);
  try {
    sluice::bench::run(model, threads, repeats);
  } catch (const std::exception& error) {
    fmt::print(stderr, "load_speed: error: {}\n", error.what());
    return 1;
  }
  return 0;
}
