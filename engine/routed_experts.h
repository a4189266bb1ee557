// The weights of a model's routed experts: in memory of their own or where the file is mapped.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/model.h"
#include "engine/runtime.h"
#include "offload/expert_store.h"
#include "offload/mapped_experts.h"

namespace sluice {

class RoutedExperts {
 public:
  /// Loads them with all workers unless the options say that they stay mapped. Keeps no reference but to the
  /// model's mapping. Throws Error naming the file that cannot be read, or the memory that is missing, and
  /// LoadStopped.
  RoutedExperts(const Model& model, const RuntimeOptions& options, const offload::Machine& machine,
                offload::Workers& workers);

  [[nodiscard]] const offload::ExpertWeights& weights() const;
  /// Whether they have memory of their own, and were checked while they were loaded if the options say so.
  [[nodiscard]] bool loaded() const { return store_.has_value(); }
  /// "experts mapped", "12.3 GB of experts on 2 NUMA nodes in huge pages".
  [[nodiscard]] const std::string& description() const { return description_; }

 private:
  std::optional<offload::ExpertStore> store_;
  std::optional<offload::MappedExperts> mapped_;
  std::string description_;
};

/// Where the threads of a runtime run. A single one is left to the scheduler: bound, it would share its core
/// with every other program that begins at the first. With several nodes, ThreadPlace::node counts those that
/// hold experts.
std::vector<offload::ThreadPlace> runtime_places(const offload::Machine& machine, int64_t threads);

}  // namespace sluice
