// The router's choice for a batch.
#pragma once

#include <cstdint>

#include "quant/base/view.h"

namespace sluice::offload {

/// Per token `used` experts, ascending by id, with the weights of their outputs. An id below 0, at any place
/// of a row, means that this choice is computed elsewhere: it adds nothing here and its weight is not read.
struct Routes {
  MatrixView<const int32_t> ids;    // [n_tokens, used]
  MatrixView<const float> weights;  // [n_tokens, used]
};

}  // namespace sluice::offload
