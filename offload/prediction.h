// What a plan will do in tokens per second, and what holds it up: a pure function. The model of time is in
// docs/plan.md; the machine's figures are what `sluice tune` measures.
#pragma once

#include <cstdint>
#include <string_view>

#include "offload/machine_profile.h"
#include "offload/plan.h"
#include "offload/plan_model.h"

namespace sluice::offload {

/// What most of the time is spent on while nothing else goes on behind it.
enum class Limit { kRam, kPcie, kGpu, kHandover, kCpu };
/// "RAM", "PCIe", "GPU", "hand-over", "CPU".
std::string_view limit_name(Limit limit);

/// Share of int8 products that scores of earlier tokens reach (docs/cuda_attention.md).
inline constexpr double kScanShare = 0.46;

/// How prefill computes the experts that are in RAM.
enum class PrefillWay {
  kCpu,     // where they lie
  kStream,  // on the GPU, copied there once for each pass
  kShared,  // some here, some there
};
/// "on the CPU", "streamed", "shared".
std::string_view prefill_way_name(PrefillWay way);

/// One token after `depth` others. All times in us.
struct DecodePrediction {
  int64_t depth = 0;
  double us = 0;           // of a token
  double gpu_us = 0;       // of it while the GPU computes and the CPU waits
  double ram_us = 0;       // while experts, or whole layers, are read from RAM
  double handover_us = 0;  // on the way between both
  Limit limit = Limit::kRam;

  [[nodiscard]] double tokens_per_second() const { return 1e6 / us; }
};

/// `tokens` of a prompt in an empty cache. All times in us.
struct PrefillPrediction {
  int64_t tokens = 0;
  double us = 0;
  double gpu_us = 0;     // of computing, over all layers and passes
  double pcie_us = 0;    // of copying experts, and tokens' rows for the CPU
  double cpu_us = 0;     // of the CPU's products or reads, whichever takes longer
  double cpu_share = 1;  // of the experts in RAM that tokens choose: what the CPU computes
  Limit limit = Limit::kCpu;

  [[nodiscard]] PrefillWay way() const {
    return cpu_share == 1 ? PrefillWay::kCpu : cpu_share == 0 ? PrefillWay::kStream : PrefillWay::kShared;
  }

  [[nodiscard]] double tokens_per_second() const { return static_cast<double>(tokens) * 1e6 / us; }
};

DecodePrediction predict_decode(const PlanModel& model, const MachineProfile& machine, const Plan& plan,
                                int64_t depth);
/// Experts in RAM are divided as offload/expert_pass.h says. `tokens` >= 1.
PrefillPrediction predict_prefill(const PlanModel& model, const MachineProfile& machine, const Plan& plan,
                                  int64_t tokens);

}  // namespace sluice::offload
