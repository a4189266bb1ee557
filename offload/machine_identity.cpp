#include "offload/machine_identity.h"

#include <fmt/format.h>

namespace sluice::offload {

std::string identity_of(const Machine& machine) {
#ifdef __OPTIMIZE__
  const char* const build = "optimized";
#else
  const char* const build = "not optimized";  // reads so slowly that nobody else may believe it
#endif
  std::string text = fmt::format("{}, {} cores, {} bytes, read loop {}", machine.cpu_name, machine.cores,
                                 machine.memory_bytes, build);
  for (const NumaNode& node : machine.nodes) {
    text += fmt::format("; node {}: {} cores, {} bytes", node.os_index, node.cores.size(), node.memory_bytes);
  }
  return text;
}

uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  }
  return hash;
}

}  // namespace sluice::offload
