// The read loop and the FMA loop, once per instruction set. `target` attributes instead of per-file flags:
// this file holds no template that could leave code for a newer CPU behind.
#include "bench/floors.h"

#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <chrono>

namespace sluice::bench {
namespace {

constexpr int kChains = 12;           // independent FMAs: more than latency times pipes on any core so far
constexpr int64_t kFmaSteps = 20000;  // about 100 us
constexpr int64_t kAmxSteps = 4000;   // likewise
constexpr int kRepeats = 15;          // the best one counts

__attribute__((target("avx512f"))) void fma_avx512() {
  __m512 sum[kChains];
  std::fill_n(sum, kChains, _mm512_set1_ps(1.0F));
  const __m512 x = _mm512_set1_ps(0.999F);
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (__m512& s : sum) {
      s = _mm512_fmadd_ps(s, x, x);
    }
  }
  for (__m512& s : sum) {
    benchmark::DoNotOptimize(s);
  }
}

__attribute__((target("avx2,fma"))) void fma_avx2() {
  __m256 sum[kChains];
  std::fill_n(sum, kChains, _mm256_set1_ps(1.0F));
  const __m256 x = _mm256_set1_ps(0.999F);
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (__m256& s : sum) {
      s = _mm256_fmadd_ps(s, x, x);
    }
  }
  for (__m256& s : sum) {
    benchmark::DoNotOptimize(s);
  }
}

void fma_scalar() {
  float sum[kChains];
  std::fill_n(sum, kChains, 1.0F);
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (float& s : sum) {
      s = s * 0.999F + 0.999F;
      benchmark::DoNotOptimize(s);  // keeps the compiler from using vectors
    }
  }
}

__attribute__((target("avx512f"))) void read_avx512(const std::byte* p, size_t n) {
  __m512i sum[4] = {};
  for (size_t i = 0; i + 256 <= n; i += 256) {
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) {
      sum[j] = _mm512_xor_si512(sum[j], _mm512_loadu_si512(p + i + 64 * j));
    }
  }
  benchmark::DoNotOptimize(sum);
}

__attribute__((target("avx2"))) void read_avx2(const std::byte* p, size_t n) {
  __m256i sum[8] = {};
  for (size_t i = 0; i + 256 <= n; i += 256) {
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j) {
      const auto* at = reinterpret_cast<const __m256i*>(p + i + 32 * j);
      sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256(at));
    }
  }
  benchmark::DoNotOptimize(sum);
}

__attribute__((target("avx512f,avx512vnni"))) void int8_avx512vnni() {
  __m512i sum[kChains];
  const __m512i x = _mm512_set1_epi8(3);
  for (int i = 0; i < kChains; ++i) {
    sum[i] = _mm512_set1_epi32(i);
  }
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (__m512i& s : sum) {
      s = _mm512_dpbusd_epi32(s, x, x);
    }
  }
  for (__m512i& s : sum) {
    benchmark::DoNotOptimize(s);
  }
}

// Full tiles: 16 x 32 bf16 times 32 x 16, four sums in turn.
void configure_tiles() {
  struct alignas(64) {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } const shapes;
  __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
  __asm__ volatile("tilezero %tmm0\n\ttilezero %tmm1\n\ttilezero %tmm2\n\ttilezero %tmm3");
  __asm__ volatile("tilezero %tmm4\n\ttilezero %tmm5\n\ttilezero %tmm6\n\ttilezero %tmm7");
}

void bf16_amx() {
  configure_tiles();
  for (int64_t i = 0; i < kAmxSteps; ++i) {
    __asm__ volatile("tdpbf16ps %tmm6, %tmm4, %tmm0\n\ttdpbf16ps %tmm7, %tmm4, %tmm1");
    __asm__ volatile("tdpbf16ps %tmm6, %tmm5, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3");
  }
  __asm__ volatile("tilerelease");
}

/// A tile is 1 KiB: 16 of them, four a step.
void bf16_amx_loaded() {
  alignas(64) static constexpr std::array<std::byte, size_t{16} << 10> kZeros = {};
  configure_tiles();
  for (int64_t i = 0; i < kAmxSteps; ++i) {
    const std::byte* const at = kZeros.data() + i % 4 * 4096;
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm6\n\ttileloadd 1024(%0,%1,1), %%tmm4" ::"r"(at),
                     "r"(int64_t{64}));
    __asm__ volatile("tdpbf16ps %tmm6, %tmm4, %tmm0");
    __asm__ volatile("tileloadd 2048(%0,%1,1), %%tmm7\n\ttileloadd 3072(%0,%1,1), %%tmm5" ::"r"(at),
                     "r"(int64_t{64}));
    __asm__ volatile("tdpbf16ps %tmm7, %tmm4, %tmm1");
    __asm__ volatile("tdpbf16ps %tmm6, %tmm5, %tmm2\n\ttdpbf16ps %tmm7, %tmm5, %tmm3");
  }
  __asm__ volatile("tilerelease");
}

__attribute__((target("avx512f,avx512bw"))) void int8_avx512() {
  __m512i sum[kChains];
  const __m512i x = _mm512_set1_epi8(3);
  for (int i = 0; i < kChains; ++i) {
    sum[i] = _mm512_set1_epi32(i);
  }
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (__m512i& s : sum) {
      s = _mm512_add_epi32(s, _mm512_madd_epi16(_mm512_maddubs_epi16(s, x), x));
    }
  }
  for (__m512i& s : sum) {
    benchmark::DoNotOptimize(s);
  }
}

__attribute__((target("avx2"))) void int8_avx2() {
  __m256i sum[kChains];
  const __m256i x = _mm256_set1_epi8(3);
  for (int i = 0; i < kChains; ++i) {
    sum[i] = _mm256_set1_epi32(i);
  }
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (__m256i& s : sum) {
      s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(s, x), x));
    }
  }
  for (__m256i& s : sum) {
    benchmark::DoNotOptimize(s);
  }
}

__attribute__((target("avx2,avxvnni"))) void int8_avxvnni() {
  __m256i sum[kChains];
  const __m256i x = _mm256_set1_epi8(3);
  for (int i = 0; i < kChains; ++i) {
    sum[i] = _mm256_set1_epi32(i);
  }
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (__m256i& s : sum) {
      s = _mm256_dpbusd_avx_epi32(s, x, x);
    }
  }
  for (__m256i& s : sum) {
    benchmark::DoNotOptimize(s);
  }
}

void int8_scalar() {
  int32_t sum[kChains];
  for (int i = 0; i < kChains; ++i) {
    sum[i] = i;
  }
  for (int64_t i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (int32_t& s : sum) {
      s = s * 3 + 3;
      benchmark::DoNotOptimize(s);  // keeps the compiler from using vectors
    }
  }
}

template <typename Work>
double best_seconds(const Work& work) {
  double best = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::min(best, elapsed.count());
  }
  return best;
}

}  // namespace

double read_bytes_per_second(cpu::Isa isa, std::span<const std::byte> bytes) {
  constexpr size_t kBytesPerTrial = 8 << 20;
  const size_t passes = std::max<size_t>(1, kBytesPerTrial / std::max<size_t>(bytes.size(), 1));
  const double seconds = best_seconds([&] {
    for (size_t i = 0; i < passes; ++i) {
      cpu::float_isa(isa) == cpu::Isa::kAvx512 ? read_avx512(bytes.data(), bytes.size())
                                               : read_avx2(bytes.data(), bytes.size());
    }
  });
  return static_cast<double>(bytes.size() * passes) / seconds;
}

double fma_flops_per_second(cpu::Isa any) {
  const cpu::Isa isa = cpu::float_isa(any);
  const double seconds = best_seconds([isa] {
    isa == cpu::Isa::kAvx512 ? fma_avx512() : isa == cpu::Isa::kAvx2 ? fma_avx2() : fma_scalar();
  });
  const double lanes = isa == cpu::Isa::kAvx512 ? 16.0 : isa == cpu::Isa::kAvx2 ? 8.0 : 1.0;
  return 2.0 * lanes * kChains * static_cast<double>(kFmaSteps) / seconds;
}

double product_loop(cpu::Isa isa) {
  struct Loop {
    void (*run)();
    double products;  // of a step of one chain
  };
  if (isa == cpu::Isa::kAmx) {
    bf16_amx();
    return 2.0 * 16 * 16 * 32 * 4 * static_cast<double>(kAmxSteps);
  }
  const auto loop_of = [](cpu::Isa wanted) -> Loop {
    switch (wanted) {
      case cpu::Isa::kAvx512Vbmi:  // no better at products
      case cpu::Isa::kAvx512Vnni:
        return {int8_avx512vnni, 64};
      case cpu::Isa::kAvx512:
        return {int8_avx512, 64};
      case cpu::Isa::kAvxVnni:
        return {int8_avxvnni, 32};
      case cpu::Isa::kAvx2:
        return {int8_avx2, 32};
      case cpu::Isa::kAmx:
      case cpu::Isa::kScalar:
        break;
    }
    return {int8_scalar, 1};
  };
  const Loop loop = loop_of(isa);
  loop.run();
  return 2.0 * loop.products * kChains * static_cast<double>(kFmaSteps);
}

double loaded_tile_loop() {
  bf16_amx_loaded();
  return 2.0 * 16 * 16 * 32 * 4 * static_cast<double>(kAmxSteps);
}

double floor_seconds(cpu::Isa isa, std::span<const std::byte> data, double bytes, double flops) {
  return std::max(bytes / read_bytes_per_second(isa, data), flops / fma_flops_per_second(isa));
}

}  // namespace sluice::bench
