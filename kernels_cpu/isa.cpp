// Detection of instruction sets, and the wish in SLUICE_CPU_ISA.
#include "kernels_cpu/isa.h"

#include <cpuid.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "quant/base/error.h"

namespace sluice::cpu {
namespace {

constexpr const char* kVariable = "SLUICE_CPU_ISA";

constexpr bool has(uint32_t word, uint32_t mask) {
  return (word & mask) == mask;
}
constexpr uint32_t bit(int i) {
  return 1U << i;
}

struct Cpuid {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
};

/// All zero when the CPU has no such leaf.
Cpuid cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Cpuid r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) {
    return {};
  }
  return r;
}

/// The register sets that the operating system saves (XCR0). Needs OSXSAVE.
uint32_t saved_state() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// Bits of the Intel SDM, volume 2, CPUID leaves 1 and 7, and of volume 1, section 13.3 (XCR0).
constexpr uint32_t kLeaf1Ecx = bit(12) | bit(27) | bit(28) | bit(29);        // FMA, OSXSAVE, AVX, F16C
constexpr uint32_t kAvx2Leaf7Ebx = bit(5);                                   // AVX2
constexpr uint32_t kAvx512Leaf7Ebx = bit(16) | bit(17) | bit(30) | bit(31);  // F, DQ, BW, VL
constexpr uint32_t kAvx512VnniLeaf7Ecx = bit(11);                            // AVX512_VNNI
constexpr uint32_t kAvx512VbmiLeaf7Ecx = bit(1);                             // AVX512_VBMI
constexpr uint32_t kAvxVnniLeaf7Sub1Eax = bit(4);                            // AVX-VNNI
constexpr uint32_t kAmxLeaf7Edx = bit(22) | bit(24);                         // AMX-BF16, AMX-TILE
constexpr uint32_t kYmmState = bit(1) | bit(2);
constexpr uint32_t kZmmState = kYmmState | bit(5) | bit(6) | bit(7);
constexpr uint32_t kTileState = bit(17) | bit(18);

/// Linux saves tiles for processes that asked: a thread's state grows by 8 KiB (arch_prctl(2)). Asking again
/// changes nothing.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, which Debian 12's headers lack
  constexpr long kTileData = 18;               // the state's number in XCR0
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::string names_of(const std::vector<Isa>& isas) {
  std::string names;
  for (const Isa isa : isas) {
    names += names.empty() ? "" : ", ";
    names += isa_name(isa);
  }
  return names;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  constexpr std::array<std::string_view, 7> kNames = {"scalar",     "avx2",       "avxvnni", "avx512",
                                                      "avx512vnni", "avx512vbmi", "amx"};
  return kNames[static_cast<size_t>(isa)];
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  const uint32_t state = has(cpuid(1).ecx, kLeaf1Ecx) ? saved_state() : 0;
  const Cpuid features = cpuid(7);
  const auto add_if = [&isas](bool supported, Isa isa) {
    if (supported) {
      isas.push_back(isa);
    }
  };
  const bool avx2 = has(features.ebx, kAvx2Leaf7Ebx) && has(state, kYmmState);
  const bool avx512 = avx2 && has(features.ebx, kAvx512Leaf7Ebx) && has(state, kZmmState);
  const bool vnni = avx512 && has(features.ecx, kAvx512VnniLeaf7Ecx);
  const bool vbmi = vnni && has(features.ecx, kAvx512VbmiLeaf7Ecx);
  add_if(vbmi && has(features.edx, kAmxLeaf7Edx) && has(state, kTileState) && may_use_tiles(), Isa::kAmx);
  add_if(vbmi, Isa::kAvx512Vbmi);
  add_if(vnni, Isa::kAvx512Vnni);
  add_if(avx512, Isa::kAvx512);
  add_if(avx2 && has(cpuid(7, 1).eax, kAvxVnniLeaf7Sub1Eax), Isa::kAvxVnni);
  add_if(avx2, Isa::kAvx2);
  isas.push_back(Isa::kScalar);
  return isas;
}

Isa chosen_isa() {
  const std::vector<Isa> isas = supported_isas();
  const char* wish = std::getenv(kVariable);
  if (wish == nullptr || *wish == '\0') {
    return *std::ranges::find_if(isas, [](Isa isa) { return isa != Isa::kAmx; });
  }
  const auto found = std::ranges::find(isas, std::string_view(wish), isa_name);
  if (found == isas.end()) {
    throw Error(fmt::format("environment variable {}", kVariable),
                fmt::format("one of {} (what this CPU supports)", names_of(isas)),
                fmt::format("\"{}\"", wish));
  }
  return *found;
}

}  // namespace sluice::cpu
