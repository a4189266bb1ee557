#include "offload/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "offload/staging_ring.h"
#include "quant/base/error.h"

namespace sluice::offload {
namespace {

constexpr int64_t kContextStep = 1024;  // of remedies

int64_t sum_of(const std::vector<PlannedBytes>& parts) {
  return std::accumulate(parts.begin(), parts.end(), int64_t{0},
                         [](int64_t sum, const PlannedBytes& part) { return sum + part.bytes; });
}

void append(std::vector<PlannedBytes>& parts, const std::vector<PlannedBytes>& more) {
  parts.insert(parts.end(), more.begin(), more.end());
}

/// What there is to decide, decided.
struct Choice {
  int64_t context = 0;
  int64_t pass_tokens = 0;
  int64_t gpu_layers = 0;
  std::vector<LayerPlace> layers;
  bool streams = true;  // where it has something to stream
};

/// The bytes of any choice.
class Ledger {
 public:
  Ledger(const PlanModel& model, const MachineProfile& machine, const PlanConstraints& constraints)
      : model_(model), machine_(machine), constraints_(constraints) {}

  [[nodiscard]] DevicePlan gpu(const Choice& choice) const {
    const GpuProfile& gpu = *machine_.gpu;
    DevicePlan device{.name = gpu.name,
                      .available = constraints_.vram_limit.value_or(gpu.memory_bytes),
                      .parts = {{"driver", gpu.driver_bytes}}};
    if (choice.gpu_layers == 0) {
      return device;
    }
    const Counts counts = count(choice);
    device.parts.push_back({"weights", counts.gpu_weights});
    device.parts.push_back({"routed experts", counts.gpu_experts});
    append(device.parts, model_.gpu_cache(counts.gpu_layers, choice.context));
    append(device.parts, model_.gpu_working(work(choice, counts)));
    device.parts.push_back({"staging ring", counts.streams ? model_.staging_bytes : 0});
    device.parts.push_back({"reserve", kGpuReserveBytes});
    return device;
  }

  [[nodiscard]] DevicePlan ram(const Choice& choice) const {
    const Counts counts = count(choice);
    const int64_t cpu_layers = static_cast<int64_t>(choice.layers.size()) - counts.gpu_layers;
    DevicePlan device{.name = machine_.cpu.name,
                      .available = constraints_.ram_limit.value_or(machine_.memory_bytes()),
                      .parts = {{"routed experts", counts.ram_experts}, {"weights", counts.ram_weights}}};
    if (cpu_layers > 0) {
      append(device.parts, model_.ram_cache(cpu_layers, choice.context));
    }
    append(device.parts, model_.ram_working(work(choice, counts), cpu_layers > 0));
    return device;
  }

  [[nodiscard]] bool streams(const Choice& choice) const { return count(choice).streams; }
  /// The GPU has experts, and RAM has none.
  [[nodiscard]] bool keeps_all_experts(const Choice& choice) const {
    const Counts counts = count(choice);
    return counts.gpu_has_experts && counts.ram_experts == 0;
  }

  /// Routed experts as the store divides them, everything else evenly.
  [[nodiscard]] std::vector<int64_t> per_node(const Choice& choice) const {
    const auto experts = static_cast<double>(count(choice).ram_experts);
    const auto nodes = static_cast<double>(machine_.cpu.nodes.size());
    const double rest = static_cast<double>(sum_of(ram(choice).parts)) - experts;
    double rates = 0;
    for (const NodeProfile& node : machine_.cpu.nodes) {
      rates += node.read_gb_per_s;
    }
    std::vector<int64_t> bytes;
    for (const NodeProfile& node : machine_.cpu.nodes) {
      bytes.push_back(static_cast<int64_t>(experts * node.read_gb_per_s / rates + rest / nodes));
    }
    return bytes;
  }

 private:
  struct Counts {
    int64_t gpu_layers = 0;  // that the GPU computes
    bool streams = false;    // experts in RAM of any of these
    bool gpu_has_experts = false;
    int64_t gpu_weights = 0;
    int64_t gpu_experts = 0;
    int64_t ram_weights = 0;
    int64_t ram_experts = 0;
  };

  [[nodiscard]] Counts count(const Choice& choice) const {
    Counts counts;
    const auto layers = static_cast<int64_t>(model_.layers.size());
    counts.gpu_weights += choice.gpu_layers > 0 ? model_.ends.gpu_head : 0;
    counts.gpu_weights += choice.gpu_layers > layers ? model_.ends.gpu_embedding : 0;
    counts.ram_weights += choice.gpu_layers > 0 ? 0 : model_.ends.ram_head;
    for (size_t i = 0; i < model_.layers.size(); ++i) {
      const PlanLayer& layer = model_.layers[i];
      const LayerPlace place = choice.layers[i];
      counts.gpu_layers += place.on_gpu ? 1 : 0;
      (place.on_gpu ? counts.gpu_weights : counts.ram_weights) +=
          place.on_gpu ? layer.gpu_weights : layer.ram_weights;
      (place.experts_on_gpu ? counts.gpu_experts : counts.ram_experts) +=
          place.experts_on_gpu ? layer.gpu_experts : layer.ram_experts;
      counts.gpu_has_experts |= place.experts_on_gpu;
      counts.streams |= place.on_gpu && !place.experts_on_gpu && layer.experts > 0;
    }
    counts.streams &= choice.streams;
    return counts;
  }

  [[nodiscard]] PlanWork work(const Choice& choice, const Counts& counts) const {
    return {.pass_tokens = choice.pass_tokens,
            .tile_tokens = std::min(constraints_.micro_batch, choice.pass_tokens),
            .context = choice.context,
            .multiprocessors = machine_.gpu.has_value() ? machine_.gpu->multiprocessors : 0,
            .gpu_has_experts = counts.gpu_has_experts,
            .streams = counts.streams};
  }

  const PlanModel& model_;
  const MachineProfile& machine_;
  const PlanConstraints& constraints_;
};

/// The decisions, each by what fits.
class Planner {
 public:
  Planner(const PlanModel& model, const MachineProfile& machine, const PlanConstraints& constraints)
      : model_(model), machine_(machine), constraints_(constraints), ledger_(model, machine, constraints) {}

  [[nodiscard]] Choice choose() const {
    Choice choice{.context = constraints_.context > 0 ? constraints_.context : longest_context(),
                  .pass_tokens = 0,
                  .gpu_layers = chosen_gpu_layers(),
                  .layers = {},
                  .streams = model_.streams};
    const auto layers = static_cast<int64_t>(model_.layers.size());
    for (int64_t i = 0; i < layers; ++i) {
      const bool on_gpu = i >= layers - (choice.gpu_layers - 1);
      choice.layers.push_back({.on_gpu = on_gpu, .experts_on_gpu = place_of(i) == ExpertWish::kGpu});
    }
    return filled(choice);
  }

  [[nodiscard]] bool fits(const Choice& choice) const {
    const bool gpu_fits = choice.gpu_layers == 0 || ledger_.gpu(choice).free() >= 0;
    return gpu_fits && ram_fits(choice);
  }

  [[nodiscard]] const Ledger& ledger() const { return ledger_; }

  [[nodiscard]] int64_t chosen_gpu_layers() const {
    const int64_t all = static_cast<int64_t>(model_.layers.size()) + 1;
    return machine_.gpu.has_value() ? std::min(constraints_.gpu_layers.value_or(all), all) : 0;
  }

 private:
  [[nodiscard]] int64_t longest_context() const {
    return chosen_gpu_layers() > 1 ? std::min(model_.context, model_.gpu_context) : model_.context;
  }

  [[nodiscard]] ExpertWish place_of(int64_t layer) const {
    return constraints_.experts.empty() ? ExpertWish::kAuto
                                        : constraints_.experts[static_cast<size_t>(layer)];
  }

  [[nodiscard]] bool ram_fits(const Choice& choice) const {
    if (ledger_.ram(choice).free() < 0) {
      return false;
    }
    const std::vector<int64_t> nodes = ledger_.per_node(choice);
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i] > machine_.cpu.nodes[i].memory_bytes) {
        return false;
      }
    }
    return true;
  }

  /// With a pass, and with what experts fit on the GPU beside it.
  [[nodiscard]] Choice filled(Choice choice) const {
    Choice all = choice;
    for (size_t i = 0; i < all.layers.size(); ++i) {
      all.layers[i].experts_on_gpu |= may_fill(choice, i);
    }
    all.pass_tokens = pass_of_resident(all);
    if (!ledger_.streams(all) && (all.layers == choice.layers || fits(all))) {
      return all;
    }
    if (!ledger_.streams(choice)) {
      choice.pass_tokens = pass_without_stream(choice);
      return fill(choice);
    }
    const int64_t shortest = constraints_.batch > 0 ? constraints_.batch : constraints_.micro_batch;
    choice.pass_tokens = longest_pass(choice);
    Choice best = fill(choice);
    while (choice.pass_tokens > shortest && !fits(best)) {
      choice.pass_tokens = std::max(choice.pass_tokens / 2, shortest);
      best = fill(choice);
    }
    if (fits(best)) {
      return best;
    }
    choice.streams = false;
    choice.pass_tokens = pass_without_stream(choice);
    return fill(choice);
  }

  /// Experts that the GPU keeps, all of them and in types that can be streamed, are read once for a pass, so
  /// that it is as long as it can be.
  [[nodiscard]] int64_t pass_of_resident(Choice all) const {
    const int64_t shortest = pass_without_stream(all);
    if (!model_.streams || !ledger_.keeps_all_experts(all)) {
      return shortest;
    }
    all.pass_tokens = longest_pass(all);
    while (all.pass_tokens > shortest && !fits(all)) {
      all.pass_tokens = constraints_.batch > 0 ? shortest : std::max(all.pass_tokens / 2, shortest);
    }
    return all.pass_tokens;
  }

  /// More than a tile gains nothing where no expert crosses: the CPU is given a tile's tokens at a time, and
  /// working memory would grow.
  [[nodiscard]] int64_t pass_without_stream(const Choice& choice) const {
    const int64_t tile = constraints_.micro_batch;
    if (constraints_.batch == 0) {
      return tile;
    }
    return choice.gpu_layers > 0 ? std::min(constraints_.batch, tile) : constraints_.batch;
  }

  /// Nor is a pass longer than the context, or than a tile where the CPU computes some layers whole.
  [[nodiscard]] int64_t longest_pass(const Choice& choice) const {
    if (constraints_.batch > 0) {
      return constraints_.batch;
    }
    const bool divided = choice.gpu_layers <= static_cast<int64_t>(model_.layers.size());
    const int64_t most = divided ? 0 : std::min(kMostPassTokens, choice.context);
    return std::max(constraints_.micro_batch, most);
  }

  [[nodiscard]] bool may_fill(const Choice& choice, size_t layer) const {
    return model_.layers[layer].experts > 0 && choice.layers[layer].on_gpu &&
           place_of(static_cast<int64_t>(layer)) == ExpertWish::kAuto;
  }

  /// Experts of the last layers first, so that the placement can be said as -ncmoe.
  [[nodiscard]] Choice fill(Choice choice) const {
    for (size_t i = model_.layers.size(); i-- > 0;) {
      if (!may_fill(choice, i)) {
        continue;
      }
      choice.layers[i].experts_on_gpu = true;
      if (ledger_.gpu(choice).free() < 0) {
        choice.layers[i].experts_on_gpu = false;
        break;
      }
    }
    return choice;
  }

  const PlanModel& model_;
  const MachineProfile& machine_;
  const PlanConstraints& constraints_;
  Ledger ledger_;
};

/// Searches changes of one constraint each.
class Remedies {
 public:
  Remedies(const PlanModel& model, const MachineProfile& machine, const PlanConstraints& constraints,
           const Choice& choice)
      : model_(model), machine_(machine), constraints_(constraints), choice_(choice) {}

  [[nodiscard]] std::vector<Remedy> all() const {
    std::vector<Remedy> found;
    add(
        found, Remedy::Kind::kContext, 1, choice_.context / kContextStep,
        [](PlanConstraints& c, int64_t steps) { c.context = steps * kContextStep; }, kContextStep);
    if (constraints_.batch > 1) {
      add(
          found, Remedy::Kind::kBatch, 1, constraints_.batch - 1,
          [](PlanConstraints& c, int64_t tokens) { c.batch = tokens; }, 1);
    }
    add(
        found, Remedy::Kind::kGpuLayers, 0, choice_.gpu_layers - 1,
        [this](PlanConstraints& c, int64_t n) {
          c.gpu_layers = n;
          keep_experts_where_layers_are(c, n);
        },
        1);
    add_cpu_moe(found);
    return found;
  }

 private:
  [[nodiscard]] bool fits(const PlanConstraints& constraints) const {
    const Planner planner(model_, machine_, constraints);
    return planner.fits(planner.choose());
  }

  /// The largest value in [least, most] that fits, by halving: what fits with one value fits with less.
  template <typename Change>
  void add(std::vector<Remedy>& found, Remedy::Kind kind, int64_t least, int64_t most, const Change& change,
           int64_t unit) const {
    const auto fits_with = [&](int64_t value) {
      PlanConstraints changed = constraints_;
      change(changed, value);
      return fits(changed);
    };
    if (least > most || !fits_with(least)) {
      return;
    }
    while (least < most) {
      const int64_t middle = least + (most - least + 1) / 2;
      if (fits_with(middle)) {
        least = middle;
      } else {
        most = middle - 1;
      }
    }
    found.push_back({kind, least * unit});
  }

  void keep_experts_where_layers_are(PlanConstraints& changed, int64_t gpu_layers) const {
    const auto layers = static_cast<int64_t>(changed.experts.size());
    for (int64_t i = 0; i < layers - (gpu_layers - 1) && i < layers; ++i) {
      ExpertWish& place = changed.experts[static_cast<size_t>(i)];
      place = place == ExpertWish::kGpu ? ExpertWish::kRam : place;
    }
  }

  /// The smallest -ncmoe, where the user gave experts to the GPU.
  void add_cpu_moe(std::vector<Remedy>& found) const {
    if (std::ranges::find(constraints_.experts, ExpertWish::kGpu) == constraints_.experts.end()) {
      return;
    }
    const auto layers = static_cast<int64_t>(constraints_.experts.size());
    PlanConstraints changed = constraints_;
    for (int64_t n = 0; n <= layers; ++n) {
      for (int64_t i = 0; i < layers; ++i) {
        const bool kept = i >= n && choice_.layers[static_cast<size_t>(i)].on_gpu;
        changed.experts[static_cast<size_t>(i)] = kept ? ExpertWish::kGpu : ExpertWish::kRam;
      }
      if (fits(changed)) {
        found.push_back({Remedy::Kind::kCpuMoeLayers, n});
        return;
      }
    }
  }

  const PlanModel& model_;
  const MachineProfile& machine_;
  const PlanConstraints& constraints_;
  const Choice& choice_;
};

void check_range(const char* flag, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    throw Error(flag, fmt::format("{} to {}", least, most), std::to_string(value));
  }
}

void check_constraints(const PlanModel& model, const MachineProfile& machine, const PlanConstraints& c) {
  assert(c.experts.empty() || c.experts.size() == model.layers.size());
  check_range("-c/--ctx-size", c.context, 0, model.context);
  check_range("-b/--batch-size", c.batch, 0, 65536);
  check_range("-ub/--ubatch-size", c.micro_batch, 1, 65536);
  if (c.ram_limit.has_value()) {
    check_range("--ram-limit", *c.ram_limit, 1, machine.memory_bytes());
  }
  if (c.vram_limit.has_value()) {
    if (!machine.gpu.has_value()) {
      throw Error("--vram-limit", "a machine with a GPU", machine.name);
    }
    check_range("--vram-limit", *c.vram_limit, 1, machine.gpu->memory_bytes);
  }
  if (c.gpu_layers.value_or(0) > 0 && !machine.gpu.has_value()) {
    throw Error("-ngl/--n-gpu-layers", "0, or a machine with a GPU", machine.name);
  }
}

void check_experts(const PlanModel& model, const PlanConstraints& c, int64_t gpu_layers) {
  const auto layers = static_cast<int64_t>(c.experts.size());
  for (int64_t i = 0; i < layers; ++i) {
    if (c.experts[static_cast<size_t>(i)] != ExpertWish::kGpu) {
      continue;
    }
    if (model.layers[static_cast<size_t>(i)].experts == 0 || i < layers - (gpu_layers - 1)) {
      throw Error("-ncmoe, -ot", "routed experts of layers that the GPU computes",
                  fmt::format("layer {}", i));
    }
  }
}

std::vector<Shortfall> shortfalls_of(const Plan& plan, const MachineProfile& machine) {
  std::vector<Shortfall> found;
  for (const DevicePlan* const device : {plan.gpu.has_value() ? &*plan.gpu : nullptr, &plan.ram}) {
    if (device != nullptr && device->free() < 0) {
      found.push_back({device->name, device->total(), device->available});
    }
  }
  for (size_t i = 0; i < plan.node_bytes.size() && plan.ram.free() >= 0; ++i) {
    const int64_t there = machine.cpu.nodes[i].memory_bytes;
    if (plan.node_bytes[i] > there) {
      found.push_back({fmt::format("{}, node {}", plan.ram.name, i), plan.node_bytes[i], there});
    }
  }
  return found;
}

}  // namespace

int64_t DevicePlan::total() const {
  return sum_of(parts);
}

int64_t Plan::resident_layers() const {
  return std::ranges::count_if(layers, &LayerPlace::experts_on_gpu);
}

std::optional<int64_t> Plan::cpu_moe_layers() const {
  const auto first = std::ranges::find_if(layers, &LayerPlace::experts_on_gpu);
  if (!std::all_of(first, layers.end(), [](const LayerPlace& place) { return place.experts_on_gpu; })) {
    return {};
  }
  return first - layers.begin();
}

double met_expert_share(const PlanLayer& layer, int64_t experts_used, int64_t tokens) {
  if (layer.experts == 0) {
    return 0;
  }
  const double missed = 1.0 - static_cast<double>(experts_used) / static_cast<double>(layer.experts);
  return 1.0 - std::pow(missed, static_cast<double>(tokens));
}

Plan plan(const PlanModel& model, const MachineProfile& machine, const PlanConstraints& constraints) {
  check_constraints(model, machine, constraints);
  const Planner planner(model, machine, constraints);
  check_experts(model, constraints, planner.chosen_gpu_layers());
  const Choice choice = planner.choose();
  Plan result{.context = choice.context,
              .pass_tokens = choice.pass_tokens,
              .tile_tokens = std::min(constraints.micro_batch, choice.pass_tokens),
              .gpu_layers = choice.gpu_layers,
              .layers = choice.layers,
              .ring_bytes = 0,
              .ram = planner.ledger().ram(choice),
              .gpu = {},
              .node_bytes = planner.ledger().per_node(choice),
              .shortfalls = {},
              .remedies = {}};
  if (choice.gpu_layers > 0) {
    result.gpu = planner.ledger().gpu(choice);
    result.ring_bytes = planner.ledger().streams(choice) && result.gpu->free() >= 0
                            ? offload::ring_bytes(model.staging_bytes, result.gpu->free())
                            : 0;
  }
  result.shortfalls = shortfalls_of(result, machine);
  if (!result.fits()) {
    result.remedies = Remedies(model, machine, constraints, choice).all();
  }
  return result;
}

}  // namespace sluice::offload
