#include "support/places.h"

namespace sluice::testing {

std::filesystem::path source_directory() {
  return SLUICE_SOURCE_DIR;
}

std::string sluice_program() {
  return SLUICE_BINARY;
}

}  // namespace sluice::testing
