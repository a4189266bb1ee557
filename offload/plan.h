// Where a model's weights go on a machine, and every byte that is allocated beside them: a pure function of
// the model, the machine and what the user asks for. Nothing is allocated here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "offload/machine_profile.h"
#include "offload/plan_model.h"

namespace sluice::offload {

enum class ExpertWish {
  kAuto,  // the GPU where its memory is left over, the last layers first; else RAM
  kRam,
  kGpu,
};

/// What the user asks for. Flags are named in comments.
struct PlanConstraints {
  int64_t context = 0;        // -c, tokens; 0: the model's, or as many as fit
  int64_t batch = 0;          // -b, tokens of a pass; 0: chosen
  int64_t micro_batch = 512;  // -ub, tokens of a tile
  /// -ngl as llama.cpp counts: the head, then the last layers, then, beyond the model's layers, everything.
  /// None: as many as fit.
  std::optional<int64_t> gpu_layers = {};
  std::vector<ExpertWish> experts = {};    // -ncmoe, -cmoe, -ot: of each layer; empty: all kAuto
  std::optional<int64_t> vram_limit = {};  // --vram-limit, bytes
  std::optional<int64_t> ram_limit = {};   // --ram-limit, bytes
};

/// Tokens of the longest pass that is chosen. The shortest one is a tile.
inline constexpr int64_t kMostPassTokens = 32768;

/// GPU memory for what the driver allocates on its own (graphs, local memory of kernels) and what allocations
/// are rounded up to. Chosen, generously.
inline constexpr int64_t kGpuReserveBytes = int64_t{384} << 20;

struct LayerPlace {
  bool on_gpu = false;  // all but the routed experts
  bool experts_on_gpu = false;

  bool operator==(const LayerPlace&) const = default;
};

/// What lies on one device.
struct DevicePlan {
  std::string name = {};
  int64_t available = 0;  // bytes
  std::vector<PlannedBytes> parts = {};

  [[nodiscard]] int64_t total() const;
  [[nodiscard]] int64_t free() const { return available - total(); }  // negative: it does not fit
};

/// What alone would make a plan fit that does not.
struct Remedy {
  enum class Kind {
    kContext,       // -c value
    kBatch,         // -b value
    kGpuLayers,     // -ngl value
    kCpuMoeLayers,  // -ncmoe value
  };
  Kind kind = Kind::kContext;
  int64_t value = 0;

  bool operator==(const Remedy&) const = default;
};

/// A device without room for its part.
struct Shortfall {
  std::string device = {};
  int64_t needed = 0;
  int64_t available = 0;
};

struct Plan {
  int64_t context = 0;
  int64_t pass_tokens = 0;
  int64_t tile_tokens = 0;
  int64_t gpu_layers = 0;  // as -ngl counts
  std::vector<LayerPlace> layers = {};
  int64_t ring_bytes = 0;  // GPU memory that experts in RAM are streamed through; 0: none are
  DevicePlan ram = {};
  std::optional<DevicePlan> gpu = {};
  /// Of ram, for each node: routed experts in proportion to read rates, the rest evenly.
  std::vector<int64_t> node_bytes = {};
  std::vector<Shortfall> shortfalls = {};
  std::vector<Remedy> remedies = {};  // each is enough by itself; may be none

  [[nodiscard]] bool fits() const { return shortfalls.empty(); }
  /// Layers whose experts the GPU has.
  [[nodiscard]] int64_t resident_layers() const;
  /// The N of -ncmoe that gives this placement; none when it is no such placement.
  [[nodiscard]] std::optional<int64_t> cpu_moe_layers() const;
};

/// A pass is -b, or chosen: the longest that fits where the GPU computes all layers and experts in RAM are
/// streamed to it; else a tile, which -b does not exceed either where the GPU computes and nothing is
/// streamed. Experts are not streamed where there is no room for it. Throws Error naming the flag when the
/// constraints cannot be met by any machine: a context beyond the model's, limits beyond what the machine
/// has, experts on a GPU that is not there or whose layer is not on it. What does not fit is no error: the
/// plan says so.
Plan plan(const PlanModel& model, const MachineProfile& machine, const PlanConstraints& constraints);

/// Bytes of the experts that `tokens` tokens are expected to meet in a layer, when each chooses at random.
double met_expert_share(const PlanLayer& layer, int64_t experts_used, int64_t tokens);

}  // namespace sluice::offload
