#include "offload/machine_identity.h"

#include <fmt/format.h>

namespace sluice::offload {
namespace {

#ifdef __OPTIMIZE__
constexpr const char* kBuild = "optimized";
#else
constexpr const char* kBuild = "not optimized";  // reads so slowly that nobody else may believe it
#endif

}  // namespace

std::string identity_of(const Machine& machine) {
  std::string text = fmt::format("{}, {} cores, {} bytes, read loop {}", machine.cpu_name, machine.cores,
                                 machine.memory_bytes, kBuild);
  for (const NumaNode& node : machine.nodes) {
    text += fmt::format("; node {}: {} cores, {} bytes", node.os_index, node.cores.size(), node.memory_bytes);
  }
  return text;
}

std::string devices_of(const Machine& machine) {
  std::string text = fmt::format("{}, {} cores, {}", machine.cpu_name, machine.cores, kBuild);
  for (const NumaNode& node : machine.nodes) {
    text += fmt::format("; node {}: {} cores", node.os_index, node.cores.size());
  }
  for (const Gpu& gpu : machine.gpus) {
    text += fmt::format("; GPU {} at {}", gpu.name, gpu.pci_address);
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
