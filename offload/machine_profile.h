// A machine as numbers: what a plan needs to know of it. Measured by `sluice tune`, or written by hand for a
// machine that is not here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "offload/machine.h"

namespace sluice::offload {

/// GB are 1e9 bytes, TFLOPS 1e12 operations per second, a multiply-add being two.
struct NodeProfile {
  int64_t memory_bytes = 0;  // that weights may take
  double read_gb_per_s = 0;  // by the node's own cores
};

struct CpuProfile {
  std::string name = {};
  std::string isa = {};                 // kernels that run there: "avx512vnni"
  int64_t cores = 1;                    // physical
  std::vector<NodeProfile> nodes = {};  // at least one
  double read_gb_per_s = 0;             // of all nodes together
  double int8_gops = 0;  // 1e9 operations per second of routed experts, sixteen tokens each, all cores
};

struct GpuProfile {
  std::string name = {};
  int64_t memory_bytes = 0;  // of the whole card
  int64_t driver_bytes = 0;  // of these, what a CUDA context and other programs take
  int64_t multiprocessors = 0;
  double read_gb_per_s = 0;  // of its memory
  double bf16_tflops = 0;    // the weights that all tokens share, 512 tokens at a time, with all around them
  double expert_tflops = 0;  // products of weights in panels with the tokens of their experts
  double int8_tops = 0;      // products of int8 in large matrices
  double to_gpu_gb_per_s = 0;    // copies from page-locked memory
  double from_gpu_gb_per_s = 0;  // and back
  double launch_us = 0;          // what a kernel of a token takes beyond reading its weights
  double handover_us = 0;        // to the CPU and back, with nothing to compute
};

struct MachineProfile {
  std::string name = {};    // "RTX 4090 + 768 GB DDR5, 12 channels"
  std::string source = {};  // where the figures come from
  CpuProfile cpu = {};
  std::optional<GpuProfile> gpu = {};
  std::optional<double> disk_gb_per_s = {};

  [[nodiscard]] int64_t memory_bytes() const;  // of all nodes
};

/// Throws Error naming `source` and the figure that is missing, negative or absurd.
void check(const MachineProfile& profile, const std::string& source);

/// As JSON: the fields above by their names. Fields that start with "_" are remarks.
std::string to_json(const MachineProfile& profile);
/// Throws Error naming `source` and the key that is missing, unknown, of another type or out of its range.
MachineProfile profile_from_json(const std::string& text, const std::string& source);
/// Throws Error naming the file as well when it cannot be read.
MachineProfile read_profile(const std::filesystem::path& path);
/// Written aside, then renamed. Throws Error naming the file.
void write_profile(const MachineProfile& profile, const std::filesystem::path& path);

/// Where `sluice tune` keeps what it measured of `machine`; empty when `directory` (cache_directory()) is.
std::filesystem::path profile_path(const Machine& machine, const std::filesystem::path& directory);

}  // namespace sluice::offload
