#include "tests/cuda_emulator/matrix.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels_cuda/device/ptx.cuh"
#include "tests/cuda_emulator/device_code.h"
#include "tests/cuda_emulator/run_block.h"

namespace sluice::emulator {
namespace {

namespace ptx = cuda::ptx;

/// Row-major; every product reads its operands by the formulas of the PTX ISA.
template <typename T>
struct Matrix {
  int64_t cols;
  std::vector<T> values;
  Matrix(int64_t n_rows, int64_t n_cols) : cols(n_cols), values(static_cast<size_t>(n_rows * n_cols)) {}
  T& at(int row, int col) { return values[static_cast<size_t>(row * cols + col)]; }
  [[nodiscard]] T at(int row, int col) const { return values[static_cast<size_t>(row * cols + col)]; }
};

/// Small integers, which bf16 holds: sums are exact in every order.
template <typename T>
Matrix<T> random_matrix(int rows, int cols, int least, int largest, unsigned seed) {
  std::mt19937 random(seed);
  Matrix<T> m(rows, cols);
  std::uniform_int_distribution<int> number(least, largest);
  for (T& value : m.values) value = static_cast<T>(number(random));
  return m;
}

template <typename T>
Matrix<T> product(const Matrix<T>& a, const Matrix<T>& b, Matrix<T> c) {
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 8; ++col) {
      for (int k = 0; k < a.cols; ++k) c.at(row, col) += a.at(row, k) * b.at(k, col);
    }
  }
  return c;
}

uint32_t two_bf16(float low, float high) {
  return std::bit_cast<uint32_t>(low) >> 16 | (std::bit_cast<uint32_t>(high) & 0xFFFF0000U);
}

/// Row (group or group + 8) and column of C's register i.
struct PlaceOfC {
  int row;
  int col;
};
PlaceOfC place_of_c(int lane, int i) {
  return {.row = lane / 4 + (i < 2 ? 0 : 8), .col = lane % 4 * 2 + (i & 1)};
}

TEST(Matrix, Bf16) {
  const auto a = random_matrix<float>(16, 16, -100, 100, 1);
  const auto b = random_matrix<float>(16, 8, -100, 100, 2);
  const auto c = random_matrix<float>(16, 8, -1000, 1000, 3);
  const auto expected = product(a, b, c);
  run_block(64, [&] {
    const int lane = static_cast<int>(threadIdx.x % 32);
    uint32_t of_a[4];
    for (int i = 0; i < 4; ++i) {
      // a_0 .. a_7: row g for a_0, a_1, a_4, a_5; column 2t + (i & 1), + 8 from a_4 on.
      const int row = lane / 4 + (i % 2 == 0 ? 0 : 8);
      const int col = lane % 4 * 2 + (i < 2 ? 0 : 8);
      of_a[i] = two_bf16(a.at(row, col), a.at(row, col + 1));
    }
    const int k = lane % 4 * 2;
    const uint32_t b0 = two_bf16(b.at(k, lane / 4), b.at(k + 1, lane / 4));
    const uint32_t b1 = two_bf16(b.at(k + 8, lane / 4), b.at(k + 9, lane / 4));
    float of_c[4];
    for (int i = 0; i < 4; ++i) of_c[i] = c.at(place_of_c(lane, i).row, place_of_c(lane, i).col);
    ptx::mma_bf16(of_c, of_a, b0, b1);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(of_c[i], expected.at(place_of_c(lane, i).row, place_of_c(lane, i).col)) << lane << " " << i;
    }
  });
}

uint32_t four_bytes(const std::array<int32_t, 4>& values) {
  uint32_t word = 0;
  for (size_t i = 0; i < 4; ++i) word |= (static_cast<uint32_t>(values[i]) & 0xFF) << (8 * i);
  return word;
}

uint32_t word_of_a(const Matrix<int32_t>& a, int row, int col) {
  return four_bytes({a.at(row, col), a.at(row, col + 1), a.at(row, col + 2), a.at(row, col + 3)});
}
uint32_t word_of_b(const Matrix<int32_t>& b, int row, int col) {
  return four_bytes({b.at(row, col), b.at(row + 1, col), b.at(row + 2, col), b.at(row + 3, col)});
}

TEST(Matrix, Int8) {
  const auto a = random_matrix<int32_t>(16, 32, -128, 127, 4);
  const auto b = random_matrix<int32_t>(32, 8, -128, 127, 5);
  const auto c = random_matrix<int32_t>(16, 8, -100000, 100000, 6);
  const auto expected = product(a, b, c);
  run_block(32, [&] {
    const int lane = static_cast<int>(threadIdx.x);
    const int g = lane / 4;
    const int k = lane % 4 * 4;
    const uint32_t of_a[4] = {word_of_a(a, g, k), word_of_a(a, g + 8, k), word_of_a(a, g, k + 16),
                              word_of_a(a, g + 8, k + 16)};
    int32_t of_c[4];
    for (int i = 0; i < 4; ++i) of_c[i] = c.at(place_of_c(lane, i).row, place_of_c(lane, i).col);
    ptx::mma_int8(of_c, of_a, word_of_b(b, k, g), word_of_b(b, k + 16, g), of_c);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(of_c[i], expected.at(place_of_c(lane, i).row, place_of_c(lane, i).col)) << lane << " " << i;
    }
  });
}

TEST(Matrix, Int8OfHalfTheDepth) {
  const auto a = random_matrix<int32_t>(16, 16, -128, 127, 7);
  const auto b = random_matrix<int32_t>(16, 8, -128, 127, 8);
  const auto expected = product(a, b, Matrix<int32_t>(16, 8));
  run_block(32, [&] {
    const int lane = static_cast<int>(threadIdx.x);
    const int k = lane % 4 * 4;
    const uint32_t zeros[4] = {};
    uint32_t of_c[4];
    ptx::mma_int8_k16(of_c, word_of_a(a, lane / 4, k), word_of_a(a, lane / 4 + 8, k),
                      word_of_b(b, k, lane / 4), zeros);
    for (int i = 0; i < 4; ++i) {
      const auto found = static_cast<int32_t>(of_c[i]);
      EXPECT_EQ(found, expected.at(place_of_c(lane, i).row, place_of_c(lane, i).col)) << lane << " " << i;
    }
  });
}

TEST(Matrix, Int8SumsWrap) {
  run_block(32, [] {
    const uint32_t ones[4] = {0x01010101, 0x01010101, 0x01010101, 0x01010101};
    int32_t c[4] = {INT32_MAX, INT32_MAX - 32, -33, 0};
    ptx::mma_int8(c, ones, 0x01010101, 0x01010101, c);
    EXPECT_EQ(c[0], INT32_MIN + 31);
    EXPECT_EQ(c[1], INT32_MAX);
    EXPECT_EQ(c[2], -1);
    EXPECT_EQ(c[3], 32);
  });
}

/// Element (row, col) of matrix m is 100 m + 10 row + col; matrices lie in the order 2, 0, 3, 1, rows 32
/// bytes apart.
constexpr std::array<int, 4> kOrder = {2, 0, 3, 1};
uint32_t element(int m, int row, int col) {
  return static_cast<uint32_t>(100 * m + 10 * row + col);
}

template <typename Check>
void load_and_check(void (*load)(uint32_t (&)[4], uint32_t), Check check) {
  const auto kernel = [&] {
    auto* shared = dynamic_shared<uint16_t>();
    const auto row_of = [&](int m, int row) {
      return shared + int64_t{16} * (8 * kOrder[static_cast<size_t>(m)] + row);
    };
    const int lane = static_cast<int>(threadIdx.x);
    for (int col = 0; col < 8; ++col) {
      row_of(lane / 8, lane % 8)[col] = static_cast<uint16_t>(element(lane / 8, lane % 8, col));
    }
    __syncwarp();
    uint32_t r[4];
    load(r, ptx::shared_address(row_of(lane / 8, lane % 8)));
    for (int m = 0; m < 4; ++m) check(lane, m, r[m] & 0xFFFF, r[m] >> 16);
  };
  run_block(32, kernel, 4 * 8 * 32);
}

TEST(Matrix, Loads) {
  load_and_check(ptx::load_matrices, [](int lane, int m, uint32_t low, uint32_t high) {
    EXPECT_EQ(low, element(m, lane / 4, lane % 4 * 2));
    EXPECT_EQ(high, element(m, lane / 4, lane % 4 * 2 + 1));
  });
}

TEST(Matrix, TransposedLoads) {
  load_and_check(ptx::load_matrices_transposed, [](int lane, int m, uint32_t low, uint32_t high) {
    EXPECT_EQ(low, element(m, lane % 4 * 2, lane / 4));
    EXPECT_EQ(high, element(m, lane % 4 * 2 + 1, lane / 4));
  });
}

TEST(MatrixDeathTest, LoadsFromOutside) {
  const auto kernel = [] {
    uint32_t r[4];
    ptx::load_matrices(r, ptx::shared_address(dynamic_shared<char>()) + 16 * threadIdx.x);
  };
  EXPECT_DEATH(run_block(32, kernel, 496), "thread \\(31, 0, 0\\): ldmatrix at byte 496 of 496 bytes");
}

}  // namespace
}  // namespace sluice::emulator
