// How far the loading of experts has come.
#pragma once

#include <cstdint>

namespace sluice::offload {

struct LoadProgress {
  int64_t bytes_done = 0;  // of the file's
  int64_t bytes_total = 0;
  double gb_per_s = 0;  // since the start
};

}  // namespace sluice::offload
