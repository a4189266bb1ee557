#include "offload/machine_profile.h"

#include <fmt/format.h>

#include <cmath>

#include "offload/machine_identity.h"
#include "quant/base/error.h"

namespace sluice::offload {
namespace {

// No machine of these years has more; a figure beyond has its unit wrong.
constexpr int64_t kMostBytes = int64_t{1} << 46;  // 64 TiB
constexpr double kMostRate = 1e6;
constexpr double kMostUs = 1e4;
constexpr int64_t kMostNodes = 64;
constexpr int64_t kMostCores = 4096;

class Checker {
 public:
  explicit Checker(const std::string& source) : source_(source) {}

  void count(const std::string& key, int64_t value, int64_t least, int64_t most) const {
    if (value < least || value > most) {
      throw Error(subject(key), fmt::format("{} to {}", least, most), std::to_string(value));
    }
  }
  void rate(const std::string& key, double value, double most = kMostRate) const {
    if (!std::isfinite(value) || value <= 0 || value > most) {
      throw Error(subject(key), fmt::format("a number above 0, at most {:.0f}", most),
                  fmt::format("{}", value));
    }
  }

 private:
  [[nodiscard]] std::string subject(const std::string& key) const {
    return fmt::format("{}: {}", source_, key);
  }

  const std::string& source_;
};

void check_cpu(const CpuProfile& cpu, const Checker& checker) {
  checker.count("cpu.cores", cpu.cores, 1, kMostCores);
  checker.count("cpu.nodes", static_cast<int64_t>(cpu.nodes.size()), 1, kMostNodes);
  for (size_t i = 0; i < cpu.nodes.size(); ++i) {
    checker.count(fmt::format("cpu.nodes[{}].memory_bytes", i), cpu.nodes[i].memory_bytes, 1, kMostBytes);
    checker.rate(fmt::format("cpu.nodes[{}].read_gb_per_s", i), cpu.nodes[i].read_gb_per_s);
  }
  checker.rate("cpu.read_gb_per_s", cpu.read_gb_per_s);
  checker.rate("cpu.int8_gops", cpu.int8_gops);
}

void check_gpu(const GpuProfile& gpu, const Checker& checker) {
  checker.count("gpu.memory_bytes", gpu.memory_bytes, 1, kMostBytes);
  checker.count("gpu.driver_bytes", gpu.driver_bytes, 0, gpu.memory_bytes);
  checker.count("gpu.multiprocessors", gpu.multiprocessors, 1, 4096);
  checker.rate("gpu.read_gb_per_s", gpu.read_gb_per_s);
  checker.rate("gpu.bf16_tflops", gpu.bf16_tflops);
  checker.rate("gpu.expert_tflops", gpu.expert_tflops);
  checker.rate("gpu.int8_tops", gpu.int8_tops);
  checker.rate("gpu.to_gpu_gb_per_s", gpu.to_gpu_gb_per_s);
  checker.rate("gpu.from_gpu_gb_per_s", gpu.from_gpu_gb_per_s);
  checker.rate("gpu.launch_us", gpu.launch_us, kMostUs);
  checker.rate("gpu.handover_us", gpu.handover_us, kMostUs);
}

}  // namespace

int64_t MachineProfile::memory_bytes() const {
  int64_t bytes = 0;
  for (const NodeProfile& node : cpu.nodes) {
    bytes += node.memory_bytes;
  }
  return bytes;
}

void check(const MachineProfile& profile, const std::string& source) {
  const Checker checker(source);
  check_cpu(profile.cpu, checker);
  if (profile.gpu.has_value()) {
    check_gpu(*profile.gpu, checker);
  }
  if (profile.disk_gb_per_s.has_value()) {
    checker.rate("disk_gb_per_s", *profile.disk_gb_per_s);
  }
}

std::filesystem::path profile_path(const Machine& machine, const std::filesystem::path& directory) {
  if (directory.empty()) {
    return {};
  }
  return directory / fmt::format("machine-{:016x}.json", fnv1a(devices_of(machine)));
}

}  // namespace sluice::offload
