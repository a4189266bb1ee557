// What works worse than it should, told once: in the first place where it is known.
#pragma once

#include "engine/engine.h"

namespace sluice::cli {

class RuntimeNotice {
 public:
  /// Keeps a reference to `runtime`; tells what it knows already.
  explicit RuntimeNotice(const Runtime& runtime) : runtime_(runtime) { tell(); }

  /// Runtime::notice() as a line on standard error, unless it was told or there is nothing to tell. To be
  /// called again where work has ended: it may come up meanwhile.
  void tell();

 private:
  const Runtime& runtime_;
  bool told_ = false;
};

}  // namespace sluice::cli
