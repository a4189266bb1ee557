// Fresh random data for tests. The seed is printed with every failure (SCOPED_TRACE(random.describe())).
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace sluice::testing {

class Random {
 public:
  /// A new seed every run, or SLUICE_TEST_SEED when that is set.
  Random();
  explicit Random(uint64_t seed) : seed_(seed), engine_(seed) {}

  [[nodiscard]] std::string describe() const { return "SLUICE_TEST_SEED=" + std::to_string(seed_); }
  /// Uniform in [low, high].
  int64_t integer(int64_t low, int64_t high);
  float uniform(float low, float high);
  std::vector<float> normal(int64_t n, float deviation = 1.0F);
  std::vector<std::byte> bytes(int64_t n);

 private:
  uint64_t seed_;
  std::mt19937_64 engine_;
};

}  // namespace sluice::testing
