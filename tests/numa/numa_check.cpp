// Checks on a machine of several NUMA nodes that offload/ sees them and puts memory and threads where it
// says. tests/numa/README.md says how it is run; one line per check, exit status 1 when one failed.
#include <fmt/format.h>

#include <charconv>
#include <exception>
#include <span>
#include <string_view>

#include "tests/numa/checks.h"

namespace sluice::testing {
namespace {

bool parse(std::string_view text, int64_t least, int64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() && number >= least;
}

int run(std::span<char*> arguments) {
  Expected expected;
  const bool given = arguments.size() == 3 && parse(arguments[1], 2, expected.nodes) &&
                     parse(arguments[2], 1, expected.cores_per_node);
  if (arguments.size() != 1 && !given) {
    fmt::print(stderr, "usage: numa_check [NODES CORES_PER_NODE]   (2 2; at least two nodes)\n");
    return 2;
  }
  Report report;
  check_machine(expected, report);
  check_judge(expected, report);
  check_threads(expected, report);
  check_arenas(expected, report);
  check_store(expected, report);
  check_layers(expected, report);
  return report.failures() > 0 ? 1 : 0;
}

}  // namespace
}  // namespace sluice::testing

int main(int argc, char** argv) {
  try {
    return sluice::testing::run({argv, static_cast<size_t>(argc)});
  } catch (const std::exception& error) {
    fmt::print("FAILED  {}\n", error.what());
    return 1;
  }
}
