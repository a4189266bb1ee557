#include "support/random_tensors.h"

#include <cstdlib>

namespace sluice::testing {
namespace {

uint64_t fresh_seed() {
  if (const char* text = std::getenv("SLUICE_TEST_SEED")) {
    return std::strtoull(text, nullptr, 10);
  }
  return std::random_device{}();
}

}  // namespace

Random::Random() : Random(fresh_seed()) {}

int64_t Random::integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(engine_);
}

float Random::uniform(float low, float high) {
  return std::uniform_real_distribution<float>(low, high)(engine_);
}

std::vector<float> Random::normal(int64_t n, float deviation) {
  std::normal_distribution<float> distribution(0.0F, deviation);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) {
    value = distribution(engine_);
  }
  return values;
}

std::vector<std::byte> Random::bytes(int64_t n) {
  std::uniform_int_distribution<int> distribution(0, 255);
  std::vector<std::byte> values(static_cast<size_t>(n));
  for (std::byte& value : values) {
    value = static_cast<std::byte>(distribution(engine_));
  }
  return values;
}

}  // namespace sluice::testing
