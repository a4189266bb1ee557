// The frame of a kernel test: one body, run over every instruction set of this machine.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels_cpu/kernels_cpu.h"
#include "support/random_tensors.h"

namespace sluice::testing {

class EveryIsa : public ::testing::TestWithParam<cpu::Isa> {
 protected:
  void SetUp() override { ASSERT_EQ(kernels_.isa, GetParam()); }

  const cpu::Kernels& kernels_ = cpu::kernels_for(GetParam());
  Random random_;
};

/// The supported ones with float kernels of their own.
inline std::vector<cpu::Isa> float_isas() {
  std::vector<cpu::Isa> isas = cpu::supported_isas();
  std::erase_if(isas, [](cpu::Isa isa) { return cpu::float_isa(isa) != isa; });
  return isas;
}

inline std::string isa_of(const ::testing::TestParamInfo<cpu::Isa>& info) {
  return std::string(cpu::isa_name(info.param));
}

}  // namespace sluice::testing
