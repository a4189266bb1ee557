// An allocation that the GPU, or the system for page-locked memory, has no room for: whoever knows what it
// was for can say what would help.
#pragma once

#include "quant/base/error.h"

namespace sluice::cuda {

class OutOfMemory : public Error {
 public:
  using Error::Error;
};

}  // namespace sluice::cuda
