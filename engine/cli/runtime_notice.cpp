#include "engine/cli/runtime_notice.h"

#include <fmt/format.h>
#include <unistd.h>

#include <string>

#include "engine/cli/terminal.h"

namespace sluice::cli {

void RuntimeNotice::tell() {
  const std::string notice = told_ ? std::string() : runtime_.notice();
  if (!notice.empty()) {
    write_all(STDERR_FILENO, notice + "\n");
    told_ = true;
  }
}

}  // namespace sluice::cli
