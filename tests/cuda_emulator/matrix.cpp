#include "tests/cuda_emulator/matrix.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace sluice::emulator {
namespace {

constexpr size_t kRows = 16;
constexpr size_t kCols = 8;

/// Element `i` of a word, as a number to compute with.
float bf16_of(uint32_t word, size_t i) {
  return std::bit_cast<float>((word >> (16 * i)) << 16);
}
float int8_of(uint32_t word, size_t i) {
  return static_cast<int8_t>(word >> (8 * i));
}

/// A and B of a product, from all lanes' registers.
template <size_t kDepth>
struct Operands {
  float a[kRows][kDepth];
  float b[kDepth][kCols];
};

/// With g = lane / 4 and t = lane % 4: registers 2h and 2h + 1 of A hold the t-th words of the h-th 16 bytes
/// of rows g and g + 8, register h of B the t-th word of the h-th 16 bytes of column g.
template <size_t kDepth, size_t kPerWord, typename Element>
Operands<kDepth> gather(WarpWords words, Element element) {
  Operands<kDepth> all;
  for (size_t lane = 0; lane < kWarpLanes; ++lane) {
    const size_t g = lane / 4;
    for (size_t half = 0; half < kDepth / (4 * kPerWord); ++half) {
      const size_t first = kPerWord * (4 * half + lane % 4);
      for (size_t i = 0; i < kPerWord; ++i) {
        all.a[g][first + i] = element(words[lane][kWordsOfA + 2 * half], i);
        all.a[g + 8][first + i] = element(words[lane][kWordsOfA + 2 * half + 1], i);
        all.b[first + i][g] = element(words[lane][kWordsOfB + half], i);
      }
    }
  }
  return all;
}

/// A B. Those of int8 are exact: their sums stay below 2^24.
template <size_t kDepth>
struct Product {
  float values[kRows][kCols];
  explicit Product(const Operands<kDepth>& operands) {
    for (size_t row = 0; row < kRows; ++row) {
      float sums[kCols] = {};
      for (size_t k = 0; k < kDepth; ++k) {
        for (size_t col = 0; col < kCols; ++col) sums[col] += operands.a[row][k] * operands.b[k][col];
      }
      std::copy_n(sums, kCols, values[row]);
    }
  }
};

/// Registers 0 and 1 of C are columns 2t and 2t + 1 of row g, 2 and 3 those of row g + 8.
template <size_t kDepth, typename Add>
void add_to_c(WarpWords words, const Product<kDepth>& product, Add add) {
  for (size_t lane = 0; lane < kWarpLanes; ++lane) {
    for (size_t i = 0; i < 4; ++i) {
      uint32_t& word = words[lane][kWordsOfC + i];
      word = add(word, product.values[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]);
    }
  }
}

uint32_t add_float(uint32_t c, float product) {
  return std::bit_cast<uint32_t>(std::bit_cast<float>(c) + product);
}
uint32_t add_int(uint32_t c, float product) {
  return c + static_cast<uint32_t>(static_cast<int32_t>(product));
}

/// The 16-bit elements of the four matrices, [matrix][row][col].
using Matrices = uint16_t[4][8][8];

void gather_rows(WarpWords words, Matrices& matrices) {
  for (size_t lane = 0; lane < kWarpLanes; ++lane) {
    std::memcpy(matrices[lane / 8][lane % 8], words[lane].data(), sizeof matrices[0][0]);
  }
}

uint32_t pair(uint16_t low, uint16_t high) {
  return low | static_cast<uint32_t>(high) << 16;
}

}  // namespace

void multiply_bf16(WarpWords words, uint32_t /*mask*/) {
  add_to_c(words, Product(gather<16, 2>(words, bf16_of)), add_float);
}

void multiply_int8_k32(WarpWords words, uint32_t /*mask*/) {
  add_to_c(words, Product(gather<32, 4>(words, int8_of)), add_int);
}

void multiply_int8_k16(WarpWords words, uint32_t /*mask*/) {
  add_to_c(words, Product(gather<16, 4>(words, int8_of)), add_int);
}

void spread_matrices(WarpWords words, uint32_t /*mask*/) {
  Matrices m;
  gather_rows(words, m);
  for (size_t lane = 0; lane < kWarpLanes; ++lane) {
    const size_t col = 2 * (lane % 4);
    for (size_t i = 0; i < 4; ++i) words[lane][i] = pair(m[i][lane / 4][col], m[i][lane / 4][col + 1]);
  }
}

void spread_matrices_transposed(WarpWords words, uint32_t /*mask*/) {
  Matrices m;
  gather_rows(words, m);
  for (size_t lane = 0; lane < kWarpLanes; ++lane) {
    const size_t row = 2 * (lane % 4);
    for (size_t i = 0; i < 4; ++i) words[lane][i] = pair(m[i][row][lane / 4], m[i][row + 1][lane / 4]);
  }
}

}  // namespace sluice::emulator
