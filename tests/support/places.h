// Where this build lies. Only places.cpp is compiled with these paths, so that every other file compiles to
// the same in any folder (and a compiler cache serves all of them).
#pragma once

#include <filesystem>
#include <string>

namespace sluice::testing {

/// The root of the source tree.
std::filesystem::path source_directory();
/// The program `sluice` of this build.
std::string sluice_program();

}  // namespace sluice::testing
