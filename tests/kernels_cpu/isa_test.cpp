// Detection, names and the forced choice of instruction sets.
#include "kernels_cpu/isa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

#include "kernels_cpu/kernels.h"
#include "kernels_cpu/panel.h"
#include "quant/base/error.h"

namespace sluice::cpu {
namespace {

/// Sets SLUICE_CPU_ISA and puts the former value back.
class Wish {
 public:
  explicit Wish(const char* value) {
    if (const char* before = std::getenv(kName)) {
      before_ = before;
      was_set_ = true;
    }
    value != nullptr ? setenv(kName, value, 1) : unsetenv(kName);
  }
  ~Wish() { was_set_ ? setenv(kName, before_.c_str(), 1) : unsetenv(kName); }
  Wish(const Wish&) = delete;
  Wish& operator=(const Wish&) = delete;

 private:
  static constexpr const char* kName = "SLUICE_CPU_ISA";
  std::string before_;
  bool was_set_ = false;
};

TEST(Isa, SupportedOnesAreBestFirstAndEndWithScalar) {
  const std::vector<Isa> isas = supported_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.back(), Isa::kScalar);
  EXPECT_TRUE(std::ranges::is_sorted(isas, std::greater<>()));
}

TEST(Isa, AgreesWithTheCompilersOwnDetection) {
  const std::vector<Isa> isas = supported_isas();
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0 &&
                      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
                      __builtin_cpu_supports("avx512dq") != 0;
  EXPECT_EQ(std::ranges::count(isas, Isa::kAvx2), avx2 ? 1 : 0);
  EXPECT_EQ(std::ranges::count(isas, Isa::kAvx512), avx512 ? 1 : 0);
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni") != 0;
  EXPECT_EQ(std::ranges::count(isas, Isa::kAvx512Vnni), vnni ? 1 : 0);
  const bool vbmi = vnni && __builtin_cpu_supports("avx512vbmi") != 0;
  EXPECT_EQ(std::ranges::count(isas, Isa::kAvx512Vbmi), vbmi ? 1 : 0);
}

// Of AMX not all compilers know; the system lists what it lets programs use.
TEST(Isa, AgreesWithTheSystemOnAmx) {
  std::set<std::string> flags;
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line);
    flags.insert(std::istream_iterator<std::string>(words), {});
  }
  if (flags.empty()) GTEST_SKIP() << "/proc/cpuinfo has no flags";
  const std::vector<Isa> isas = supported_isas();
  const bool amx = flags.contains("amx_tile") && flags.contains("amx_bf16") &&
                   std::ranges::count(isas, Isa::kAvx512Vbmi) > 0;
  EXPECT_EQ(std::ranges::count(isas, Isa::kAmx), amx ? 1 : 0);
}

Isa best_but_amx() {
  std::vector<Isa> isas = supported_isas();
  std::erase(isas, Isa::kAmx);
  return isas.front();
}

TEST(Isa, WithoutAWishTheBestIsChosenButAmx) {
  const Wish none(nullptr);
  EXPECT_EQ(chosen_isa(), best_but_amx());
}

TEST(Isa, AnEmptyWishIsNone) {
  const Wish empty("");
  EXPECT_EQ(chosen_isa(), best_but_amx());
}

TEST(Isa, EveryWishIsFulfilledByItsOwnTable) {
  for (const Isa isa : supported_isas()) {
    const Wish wish(std::string(isa_name(isa)).c_str());
    EXPECT_EQ(chosen_isa(), isa);
    EXPECT_EQ(kernels_for(chosen_isa()).isa, float_isa(isa));
    EXPECT_EQ(panel_kernels_for(chosen_isa()).isa, isa);
  }
}

TEST(Isa, AnImpossibleWishIsAnErrorThatNamesTheVariable) {
  for (const char* wrong : {"AMX", "AVX2", "avx2 ", "avx1024"}) {
    const Wish wish(wrong);
    try {
      chosen_isa();
      FAIL() << wrong << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(error.subject().find("SLUICE_CPU_ISA"), std::string::npos);
      EXPECT_NE(error.expected().find("scalar"), std::string::npos);
      EXPECT_NE(error.found().find(wrong), std::string::npos);
    }
  }
}

TEST(Isa, EveryTableIsComplete) {
  for (const Isa isa : supported_isas()) {
    const Kernels& k = kernels_for(isa);
    EXPECT_TRUE(k.gemm_nt && k.gemm_nn_add && k.gemm_tn_add && k.transpose && k.rms_norm && k.layer_norm &&
                k.swiglu && k.add_scaled && k.scale && k.softmax_tile && k.index_reduce && k.to_bf16 &&
                k.rope_interleaved && k.rope_half_split && k.order_keys && k.keys_between && k.take_largest);
  }
}

}  // namespace
}  // namespace sluice::cpu
