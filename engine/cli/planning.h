// What `plan` and `tune` share: the model as bytes, what the user asks for, and the plan with its
// predictions.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/cli/common_options.h"
#include "engine/cli/placement.h"
#include "engine/cli/plan_report.h"
#include "engine/model_config.h"
#include "quant/tensor.h"

namespace sluice::cli {

/// -m, or --model-preset with --type and --dense-type: a model that is not here.
struct PlannedModelOptions {
  ModelOptions model;
  std::string preset;
  std::string type = "q8_0";
  std::string dense_type = "q8_0";

  void add_to(CLI::App& app);
};

/// What is known of a model without its weights.
struct PlannedModel {
  std::string title;
  std::string source;  // for errors
  ModelConfig config;
  std::vector<quant::Tensor> tensors;  // without bytes
};

/// Reads the header of a file, or makes up what one would hold. Throws Error.
PlannedModel describe_model(const PlannedModelOptions& options);

/// -c, -b, -ub, -ctk, --attention, --exact, where things are computed, --ram-limit.
struct PlanningOptions {
  int64_t context = 0;
  int64_t batch = 0;
  int64_t micro_batch = 512;
  CacheType cache_type = CacheType::kBF16;
  AttentionMode attention = AttentionMode::kSparse;
  bool exact = false;
  PlacementOptions placement;
  std::optional<int64_t> ram_limit;

  void add_to(CLI::App& app);
};

/// Throws Error as offload::plan() does.
PlanReport make_report(const PlannedModel& model, const offload::MachineProfile& machine,
                       const PlanningOptions& options);

/// Throws Error with what is missing and what would help when the plan does not fit.
void require_fit(const PlanReport& report);

}  // namespace sluice::cli
