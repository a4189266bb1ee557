// The frame of a kernel test: one body, run over every instruction set of this machine.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "kernels_cpu/kernels_cpu.h"
#include "support/random_tensors.h"

namespace sluice::testing {

class EveryIsa : public ::testing::TestWithParam<cpu::Isa> {
 protected:
  void SetUp() override { ASSERT_EQ(kernels_.isa, GetParam()); }

  const cpu::Kernels& kernels_ = cpu::kernels_for(GetParam());
  Random random_;
};

inline std::string isa_of(const ::testing::TestParamInfo<cpu::Isa>& info) {
  return std::string(cpu::isa_name(info.param));
}

}  // namespace sluice::testing
