// The router's choice for a batch.
#pragma once

#include <cstdint>

#include "quant/base/view.h"

namespace sluice::offload {

/// Per token `used` experts, ascending by id, with the weights of their outputs.
struct Routes {
  MatrixView<const int32_t> ids;    // [n_tokens, used]
  MatrixView<const float> weights;  // [n_tokens, used]
};

}  // namespace sluice::offload
