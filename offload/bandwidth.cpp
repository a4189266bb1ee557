#include "offload/bandwidth.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "offload/arena.h"
#include "offload/machine_identity.h"
#include "offload/node_loop.h"
#include "offload/read_loop.h"
#include "quant/base/error.h"
#include "quant/base/output_file.h"

namespace sluice::offload {
namespace {

using Json = nlohmann::json;

constexpr int64_t kChunk = 1 << 20;  // what a thread reads at a time
constexpr double kSecondsOfReading = 0.6;

// Well beyond the cache, and no more than what a busy machine can spare.
int64_t buffer_bytes(const NumaNode& node, int64_t available, int64_t nodes) {
  const int64_t wanted = std::clamp<int64_t>(4 * node.l3_bytes, 256 << 20, int64_t{2} << 30);
  return std::max(std::min(wanted, available / 4 / nodes) / kChunk, int64_t{1}) * kChunk;
}

std::vector<Arena> buffers(const Machine& machine, NodeLoop& loop) {
  const int64_t available = available_memory_bytes();
  std::vector<Arena> arenas;
  std::vector<int64_t> chunks;
  for (const NumaNode& node : machine.nodes) {
    const ArenaOptions options{
        .purpose = "measuring memory bandwidth",
        .policy = machine.numa_nodes > 1 ? MemoryPolicy::kNode : MemoryPolicy::kAnywhere,
        .node_os_index = node.os_index,
        .huge_pages = HugePages::kOn};
    const int64_t bytes = node.cores.empty() ? 0 : buffer_bytes(node, available, machine.numa_nodes);
    arenas.emplace_back(bytes, options);
    chunks.push_back(bytes / kChunk);
  }
  loop.run(chunks, [&](int64_t node, int64_t i, int64_t) {
    std::ranges::fill(
        arenas[static_cast<size_t>(node)].bytes().subspan(static_cast<size_t>(i * kChunk), kChunk),
        std::byte{1});
  });
  return arenas;
}

// The best pass over the buffers of the nodes that take part, in GB/s.
double best_pass(NodeLoop& loop, const std::vector<Arena>& arenas, std::span<const int64_t> chunks,
                 double seconds_to_spend) {
  int64_t bytes = 0;
  for (const int64_t n : chunks) {
    bytes += n * kChunk;
  }
  double best = 1e9;
  double spent = 0;
  for (int pass = 0; pass < 2 || spent < seconds_to_spend; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    loop.run(chunks, [&](int64_t node, int64_t i, int64_t) {
      read_through(
          arenas[static_cast<size_t>(node)].bytes().subspan(static_cast<size_t>(i * kChunk), kChunk));
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::min(best, seconds.count());
    spent += seconds.count();
  }
  return static_cast<double>(bytes) / best / 1e9;
}

std::optional<Bandwidth> remembered(const std::filesystem::path& path, const std::string& identity,
                                    size_t nodes) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  try {
    const Json json = Json::parse(text);
    const Bandwidth found{.node_gb_per_s = json.at("node_gb_per_s").get<std::vector<double>>(),
                          .total_gb_per_s = json.at("total_gb_per_s").get<double>()};
    const bool sane = std::ranges::all_of(found.node_gb_per_s,
                                          [](double rate) { return std::isfinite(rate) && rate >= 0; });
    const bool ours =
        json.at("machine").get<std::string>() == identity && found.node_gb_per_s.size() == nodes;
    if (ours && sane && std::isfinite(found.total_gb_per_s) && found.total_gb_per_s > 0) {
      return found;
    }
  } catch (const Json::exception&) {  // as good as no file
  }
  return std::nullopt;
}

std::string save(const std::filesystem::path& path, const std::string& identity, const Bandwidth& bandwidth) {
  try {
    std::filesystem::create_directories(path.parent_path());
    OutputFile file(path);
    const Json json{{"machine", identity},
                    {"node_gb_per_s", bandwidth.node_gb_per_s},
                    {"total_gb_per_s", bandwidth.total_gb_per_s}};
    file.write(json.dump(2) + "\n");
    file.commit();
    return {};
  } catch (const std::exception& error) {  // a full or read-only disk is no reason not to compute
    return error.what();
  }
}

}  // namespace

Bandwidth measure_bandwidth(const Machine& machine) {
  Workers workers(place_threads(machine, machine.cores));
  const ThreadBinding binding = workers.bind_caller();
  NodeLoop loop(workers, machine.numa_nodes);
  const std::vector<Arena> arenas = buffers(machine, loop);
  std::vector<int64_t> all;
  int64_t with_cores = 0;
  for (const Arena& arena : arenas) {
    all.push_back(static_cast<int64_t>(arena.bytes().size()) / kChunk);
    with_cores += all.back() > 0 ? 1 : 0;
  }
  const double share = kSecondsOfReading / static_cast<double>(with_cores + 1);
  Bandwidth result{.node_gb_per_s = std::vector<double>(arenas.size()),
                   .total_gb_per_s = best_pass(loop, arenas, all, share)};
  for (size_t node = 0; node < arenas.size(); ++node) {
    std::vector<int64_t> alone(arenas.size());
    alone[node] = all[node];
    if (with_cores == 1 && all[node] > 0) {
      result.node_gb_per_s[node] = result.total_gb_per_s;
    } else if (all[node] > 0) {
      result.node_gb_per_s[node] = best_pass(loop, arenas, alone, share);
    }
  }
  return result;
}

KnownBandwidth known_bandwidth(const Machine& machine, const std::filesystem::path& directory,
                               const std::function<Bandwidth(const Machine&)>& measure) {
  if (directory.empty()) {
    return {.bandwidth = measure(machine),
            .from_cache = false,
            .not_saved = "neither XDG_CACHE_HOME nor HOME is set"};
  }
  const std::string identity = identity_of(machine);
  const std::filesystem::path path = directory / fmt::format("bandwidth-{:016x}.json", fnv1a(identity));
  if (const auto found = remembered(path, identity, machine.nodes.size()); found.has_value()) {
    return {.bandwidth = *found, .from_cache = true, .not_saved = {}};
  }
  KnownBandwidth known{.bandwidth = measure(machine), .from_cache = false, .not_saved = {}};
  known.not_saved = save(path, identity, known.bandwidth);
  return known;
}

std::filesystem::path cache_directory() {
  const auto variable = [](const char* name) -> std::filesystem::path {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const auto cache = variable("XDG_CACHE_HOME"); cache.is_absolute()) {
    return cache / "sluice";
  }
  const auto home = variable("HOME");
  return home.empty() ? home : home / ".cache" / "sluice";
}

}  // namespace sluice::offload
