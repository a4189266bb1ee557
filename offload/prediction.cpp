#include "offload/prediction.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "offload/expert_pass.h"
#include "offload/staging_ring.h"

namespace sluice::offload {
namespace {

// Shares of the machine's rates that kernels reach (docs/benchmarks.md, docs/cuda_attention.md).
constexpr double kRamShare = 0.95;  // products, of reading
constexpr double kForkUs = 12;      // a layer's forks and joins on the CPU (docs/architecture.md)
constexpr double kSampleUs = 200;   // logits to the host, and the choice of a token
// Attention over the rate of expert_tflops, which are products in registers as well.
constexpr double kAttendShare = 0.49;
constexpr double kScanBf16Share = 1.12;  // where the cache's type has no int8

// GB/s are bytes per ns; times here are us.
double us_of(double bytes, double gb_per_s) {
  return bytes / gb_per_s / 1e3;
}
double us_of_operations(double operations, double tera_per_s) {
  return operations / tera_per_s / 1e6;
}

/// Costs of a layer for tokens at given depths.
class Costs {
 public:
  Costs(const PlanModel& model, const MachineProfile& machine) : model_(model), machine_(machine) {}

  /// Bytes of earlier tokens that one token reads in a layer.
  [[nodiscard]] double remembered_bytes(int64_t depth) const {
    const PlanMemory& memory = model_.memory;
    const auto attended = static_cast<double>(std::min(depth, memory.most_attended));
    const double scanned = depth > memory.most_attended ? static_cast<double>(depth) : 0;
    return attended * static_cast<double>(memory.attended_bytes) +
           scanned * static_cast<double>(memory.scanned_bytes);
  }

  [[nodiscard]] int64_t scan_kernels(int64_t depth) const {
    return depth > model_.memory.most_attended ? model_.memory.scan_kernels : 0;
  }

  /// The experts of `tokens` tokens, as bytes in RAM.
  [[nodiscard]] double met_bytes(const PlanLayer& layer, int64_t tokens) const {
    return static_cast<double>(layer.ram_experts) * met_expert_share(layer, model_.experts_used, tokens);
  }
  [[nodiscard]] double met_gpu_bytes(const PlanLayer& layer, int64_t tokens) const {
    return static_cast<double>(layer.gpu_experts) * met_expert_share(layer, model_.experts_used, tokens);
  }

  [[nodiscard]] double ram_us(double bytes) const {
    return us_of(bytes, machine_.cpu.read_gb_per_s * kRamShare);
  }
  [[nodiscard]] double vram_us(double bytes) const { return us_of(bytes, machine_.gpu->read_gb_per_s); }
  [[nodiscard]] double launches_us(int64_t kernels) const {
    return static_cast<double>(kernels) * machine_.gpu->launch_us;
  }
  [[nodiscard]] double copy_us(double bytes) const { return us_of(bytes, machine_.gpu->to_gpu_gb_per_s); }
  [[nodiscard]] double cpu_products_us(double operations) const {
    return us_of(operations, machine_.cpu.int8_gops);
  }

  /// Of `tokens` tokens from `depth` on, on the GPU, in one layer.
  [[nodiscard]] double attention_us(int64_t depth, int64_t tokens) const {
    const PlanMemory& memory = model_.memory;
    const GpuProfile& gpu = *machine_.gpu;
    const double scan_rate =
        memory.scanned_int8 ? gpu.int8_tops * kScanShare : gpu.expert_tflops * kScanBf16Share;
    return us_of_operations(scanned_pairs(depth, tokens) * memory.scanned_operations, scan_rate) +
           us_of_operations(attended_pairs(depth, tokens) * memory.attended_operations,
                            gpu.expert_tflops * kAttendShare);
  }

  /// The same by operations alone, for the CPU.
  [[nodiscard]] double attention_operations(int64_t depth, int64_t tokens) const {
    const PlanMemory& memory = model_.memory;
    return attended_pairs(depth, tokens) * memory.attended_operations +
           scanned_pairs(depth, tokens) * memory.scanned_operations;
  }

 private:
  /// Pairs of a token and an earlier one that it sees, of the tokens [0, n), at most `most` for a token.
  static double visible_pairs(int64_t n, int64_t most) {
    const auto ramp = static_cast<double>(std::min(n, most));
    return ramp * ramp / 2 + (static_cast<double>(n) - ramp) * static_cast<double>(most);
  }

  [[nodiscard]] double attended_pairs(int64_t depth, int64_t tokens) const {
    const int64_t most = model_.memory.most_attended;
    return visible_pairs(depth + tokens, most) - visible_pairs(depth, most);
  }

  /// Tokens that see no more than they attend to scan nothing.
  [[nodiscard]] double scanned_pairs(int64_t depth, int64_t tokens) const {
    const int64_t most = model_.memory.most_attended;
    const auto pairs = [&](int64_t n) { return visible_pairs(std::max(n, most), model_.context); };
    return pairs(depth + tokens) - pairs(depth);
  }

  const PlanModel& model_;
  const MachineProfile& machine_;
};

Limit largest(std::initializer_list<std::pair<double, Limit>> parts) {
  return std::max_element(parts.begin(), parts.end(),
                          [](const auto& a, const auto& b) { return a.first < b.first; })
      ->second;
}

/// Adds a layer of one token.
void add_layer(const PlanLayer& layer, LayerPlace place, const Costs& costs, double handover_us,
               DecodePrediction& total) {
  const double remembered = costs.remembered_bytes(total.depth);
  const double chosen = costs.met_bytes(layer, 1);
  if (!place.on_gpu) {
    total.ram_us += costs.ram_us(static_cast<double>(layer.ram_weights) + remembered + chosen) + kForkUs;
    return;
  }
  const auto before = static_cast<double>(layer.gpu_weights - layer.beside_weights) + remembered;
  total.gpu_us += costs.vram_us(before) +
                  costs.launches_us(layer.kernels - layer.beside_kernels + costs.scan_kernels(total.depth));
  const double beside =
      costs.vram_us(static_cast<double>(layer.beside_weights)) + costs.launches_us(layer.beside_kernels);
  if (place.experts_on_gpu || layer.experts == 0) {
    total.gpu_us += beside;
    if (layer.experts > 0) {
      total.gpu_us += costs.vram_us(costs.met_gpu_bytes(layer, 1)) + costs.launches_us(layer.expert_kernels);
    }
    return;
  }
  // The GPU's part is hidden behind the CPU's, or the other way round.
  const double experts = costs.ram_us(chosen) + kForkUs;
  total.handover_us += handover_us;
  if (beside > experts) {
    total.gpu_us += beside;
  } else {
    total.ram_us += experts;
  }
}

/// A layer of a pass: what each of the parts takes, and how long it is until all are done.
struct LayerPass {
  double us = 0;
  double gpu_us = 0;
  double pcie_us = 0;
  double cpu_us = 0;
  // Experts in RAM that tokens chose, and how many of them the CPU computed.
  int64_t met = 0;
  int64_t cpu_experts = 0;
};

LayerPass on_cpu(const PlanLayer& layer, const Costs& costs, int64_t depth, int64_t tokens) {
  const auto n = static_cast<double>(tokens);
  const double operations =
      n * (layer.weight_operations + layer.expert_operations) + costs.attention_operations(depth, tokens);
  const double bytes = static_cast<double>(layer.ram_weights) + costs.met_bytes(layer, tokens);
  const double us = std::max(costs.cpu_products_us(operations), costs.ram_us(bytes));
  return {.us = us, .cpu_us = us};
}

/// The layers of a pass, one after the other: copies run ahead from each into the next.
class PassCosts {
 public:
  PassCosts(const PlanModel& model, const MachineProfile& machine, const Plan& plan)
      : model_(model), machine_(machine), plan_(plan), costs_(model, machine) {}

  void begin_pass() {
    idle_copies_us_ = 0;
    last_on_gpu_ = {};
  }

  /// The next layer.
  LayerPass layer(size_t index, int64_t depth, int64_t tokens) {
    const PlanLayer& layer = model_.layers[index];
    const LayerPlace place = plan_.layers[index];
    if (!place.on_gpu) {
      return on_cpu(layer, costs_, depth, tokens);
    }
    const double shared = shared_us(layer, depth, tokens);
    if (layer.experts > 0 && !place.experts_on_gpu) {
      return divided(layer, shared, tokens);
    }
    const double us = shared + (layer.experts > 0 ? expert_us(layer, tokens) : 0);
    idle_copies_us_ += us;
    return {.us = us, .gpu_us = us};
  }

 private:
  [[nodiscard]] int64_t tiles(int64_t tokens) const {
    return (tokens + plan_.tile_tokens - 1) / plan_.tile_tokens;
  }

  /// Weights are read once for each tile.
  [[nodiscard]] double shared_us(const PlanLayer& layer, int64_t depth, int64_t tokens) const {
    const double reading =
        costs_.vram_us(static_cast<double>(layer.gpu_weights)) + costs_.launches_us(layer.kernels);
    return std::max(us_of_operations(static_cast<double>(tokens) * layer.weight_operations,
                                     machine_.gpu->bf16_tflops),
                    static_cast<double>(tiles(tokens)) * reading) +
           costs_.attention_us(depth, tokens);
  }

  [[nodiscard]] double expert_us(const PlanLayer& layer, int64_t tokens) const {
    return std::max(
        us_of_operations(static_cast<double>(tokens) * layer.expert_operations, machine_.gpu->expert_tflops),
        costs_.vram_us(costs_.met_gpu_bytes(layer, tokens)));
  }

  /// The CPU's tokens cross before it begins and their sums when it is done.
  LayerPass divided(const PlanLayer& layer, double shared, int64_t tokens) {
    const ExpertPass experts = experts_of(layer, shared, tokens);
    idle_copies_us_ = std::max(0.0, phase_us(experts, tokens) - experts.late_copy_us);
    last_on_gpu_ = experts.on_gpu;
    const GpuProfile& gpu = *machine_.gpu;
    const double rows = row_bytes(experts, tokens);
    return {.us = shared + phase_us(experts, tokens) + costs_.copy_us(rows),
            .gpu_us = shared + experts.gpu_us,
            .pcie_us = experts.copy_us + costs_.copy_us(rows) + us_of(rows, gpu.from_gpu_gb_per_s),
            .cpu_us = experts.cpu_us,
            .met = experts.met,
            .cpu_experts = experts.cpu_experts};
  }

  /// From when the routes are known until both sides are done.
  [[nodiscard]] double phase_us(const ExpertPass& experts, int64_t tokens) const {
    const GpuProfile& gpu = *machine_.gpu;
    const double to_cpu = experts.cpu_experts > 0
                              ? us_of(row_bytes(experts, tokens), gpu.from_gpu_gb_per_s) + gpu.handover_us
                              : 0;
    return std::max(to_cpu + experts.cpu_us, experts.stream_us);
  }

  /// Of the tokens that chose any expert of the CPU's.
  [[nodiscard]] double row_bytes(const ExpertPass& experts, int64_t tokens) const {
    const double of_gpu = 1 - static_cast<double>(experts.cpu_choices) / static_cast<double>(experts.choices);
    const double rows =
        static_cast<double>(tokens) * (1 - std::pow(of_gpu, static_cast<double>(model_.experts_used)));
    return rows * static_cast<double>(model_.residual_bytes);
  }

  /// In the first layer of a pass as in one whose layer before was divided as it would be by itself.
  [[nodiscard]] ExpertPass experts_of(const PlanLayer& layer, double shared, int64_t tokens) {
    const double bytes = static_cast<double>(layer.ram_experts) / static_cast<double>(layer.experts);
    const ExpertPassCase alone{
        .tokens = tokens_of_experts(layer.experts, tokens),
        .expert_bytes = bytes,
        .choice_operations = layer.expert_operations / static_cast<double>(model_.experts_used),
        .ring_experts = std::min(static_cast<int64_t>(static_cast<double>(plan_.ring_bytes) / bytes),
                                 layer.experts + kLeastStagedExperts),
        .window_us = 0,
        .last_on_gpu = 0,
        .limits_cpu = tokens > kMostSharedTokens};
    ExpertPassCase next = alone;
    next.window_us = idle_copies_us_ + shared;
    next.last_on_gpu = last_on_gpu_.has_value() ? *last_on_gpu_ : expected_pass(alone, rates()).on_gpu;
    return expected_pass(next, rates());
  }

  [[nodiscard]] SplitMachine rates() const {
    return {.ram_gb_per_s = machine_.cpu.read_gb_per_s * kRamShare,
            .cpu_gops = machine_.cpu.int8_gops,
            .copy_gb_per_s = machine_.gpu->to_gpu_gb_per_s,
            .copy_us = 0,
            .gpu_tflops = machine_.gpu->expert_tflops};
  }

  const std::vector<int64_t>& tokens_of_experts(int64_t experts, int64_t tokens) {
    const auto [found, added] = routes_.try_emplace({experts, tokens});
    if (added) {
      found->second = expected_tokens(experts, model_.experts_used, tokens);
    }
    return found->second;
  }

  const PlanModel& model_;
  const MachineProfile& machine_;
  const Plan& plan_;
  Costs costs_;
  double idle_copies_us_ = 0;  // since the last copy of a layer before
  std::optional<int64_t> last_on_gpu_;
  std::map<std::pair<int64_t, int64_t>, std::vector<int64_t>> routes_;  // of experts and tokens
};

}  // namespace

std::string_view limit_name(Limit limit) {
  constexpr std::array<std::string_view, 5> kNames{"RAM", "PCIe", "GPU", "hand-over", "CPU"};
  return kNames[static_cast<size_t>(limit)];
}

std::string_view prefill_way_name(PrefillWay way) {
  constexpr std::array<std::string_view, 3> kNames{"on the CPU", "streamed", "shared"};
  return kNames[static_cast<size_t>(way)];
}

DecodePrediction predict_decode(const PlanModel& model, const MachineProfile& machine, const Plan& plan,
                                int64_t depth) {
  assert(plan.layers.size() == model.layers.size());
  const Costs costs(model, machine);
  const double handover = machine.gpu.has_value() ? machine.gpu->handover_us : 0;
  DecodePrediction total{.depth = depth};
  for (size_t i = 0; i < model.layers.size(); ++i) {
    add_layer(model.layers[i], plan.layers[i], costs, handover, total);
  }
  if (plan.gpu_layers > 0) {
    total.gpu_us += costs.vram_us(static_cast<double>(model.ends.gpu_head)) +
                    costs.launches_us(model.ends.head_kernels) + kSampleUs;
  } else {
    total.ram_us += costs.ram_us(static_cast<double>(model.ends.ram_head)) + kSampleUs;
  }
  total.us = total.gpu_us + total.ram_us + total.handover_us;
  total.limit = largest(
      {{total.ram_us, Limit::kRam}, {total.gpu_us, Limit::kGpu}, {total.handover_us, Limit::kHandover}});
  return total;
}

PrefillPrediction predict_prefill(const PlanModel& model, const MachineProfile& machine, const Plan& plan,
                                  int64_t tokens) {
  assert(plan.layers.size() == model.layers.size() && tokens >= 1);
  PassCosts costs(model, machine, plan);
  PrefillPrediction total{.tokens = tokens};
  int64_t met = 0;
  int64_t cpu_experts = 0;
  for (int64_t depth = 0; depth < tokens; depth += plan.pass_tokens) {
    const int64_t n = std::min(plan.pass_tokens, tokens - depth);
    costs.begin_pass();
    for (size_t i = 0; i < model.layers.size(); ++i) {
      const bool is_last = i + 1 == model.layers.size();  // the pass's last token alone goes through it
      const LayerPass layer = is_last ? costs.layer(i, depth + n - 1, 1) : costs.layer(i, depth, n);
      total.us += layer.us;
      total.gpu_us += layer.gpu_us;
      total.pcie_us += layer.pcie_us;
      total.cpu_us += layer.cpu_us;
      met += layer.met;
      cpu_experts += layer.cpu_experts;
    }
  }
  total.cpu_share = met > 0 ? static_cast<double>(cpu_experts) / static_cast<double>(met) : 1;
  total.limit =
      largest({{total.cpu_us, Limit::kCpu}, {total.pcie_us, Limit::kPcie}, {total.gpu_us, Limit::kGpu}});
  return total;
}

}  // namespace sluice::offload
