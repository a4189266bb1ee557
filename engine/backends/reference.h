// The whole model as plain scalar float32 loops, straight from the model specification's section 2: the
// oracle that every backend is compared with. Slow on purpose: it computes all positions anew, shares no
// kernel with the backends, keeps no cache, and can attend in either of the two algebraically equal forms.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/forward_observer.h"
#include "engine/model.h"
#include "engine/runtime.h"

namespace sluice {

enum class AttentionForm { kExpanded, kAbsorbed };

struct ReferenceOptions {
  AttentionMode attention = AttentionMode::kSparse;
  AttentionForm form = AttentionForm::kExpanded;
  ForwardObserver* observer = nullptr;  // may be null
};

/// Logits of every position, [ids.size(), vocab_size]. ids must be in the vocabulary.
std::vector<float> reference_forward(const Model& model, std::span<const int32_t> ids,
                                     const ReferenceOptions& options);

}  // namespace sluice
