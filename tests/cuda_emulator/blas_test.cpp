// Products against sums in double precision.
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace sluice::emulator {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Memory of the GPU with a copy of `values`.
template <typename T>
class There {
 public:
  explicit There(const std::vector<T>& values) : count_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, count_ * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~There() { EXPECT_EQ(cudaFree(data_), cudaSuccess); }
  There(const There&) = delete;
  There& operator=(const There&) = delete;
  [[nodiscard]] T* data() const { return static_cast<T*>(data_); }
  [[nodiscard]] std::vector<T> values() const {
    std::vector<T> result(count_);
    EXPECT_EQ(cudaMemcpy(result.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return result;
  }

 private:
  size_t count_;
  void* data_ = nullptr;
};

class EmulatedBlas : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(cublasCreate(&handle_), CUBLAS_STATUS_SUCCESS); }
  void TearDown() override { EXPECT_EQ(cublasDestroy(handle_), CUBLAS_STATUS_SUCCESS); }
  std::vector<float> random(size_t count) {
    std::vector<float> values(count);
    std::uniform_int_distribution<int> integers(-64, 64);  // exact in bf16
    for (float& value : values) value = static_cast<float>(integers(engine_)) / 64.0F;
    return values;
  }

  cublasHandle_t handle_ = nullptr;
  std::mt19937 engine_{std::random_device{}()};
};

/// Column-major, of `rows` and `cols` as it lies.
double element(const std::vector<float>& matrix, int stride, bool transposed, int row, int col) {
  return matrix[static_cast<size_t>(transposed ? row * stride + col : col * stride + row)];
}

TEST_F(EmulatedBlas, FloatProductsOfEveryOrientation) {
  constexpr int kM = 5;
  constexpr int kN = 3;
  constexpr int kK = 37;
  constexpr int kStride = 40;
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const std::vector<float> a = random(kStride * kStride);
      const std::vector<float> b = random(kStride * kStride);
      const std::vector<float> c = random(kStride * kN);
      const There<float> a_there(a);
      const There<float> b_there(b);
      const There<float> c_there(c);
      const float alpha = 0.5F;
      const float beta = -2.0F;
      ASSERT_EQ(cublasSgemm(handle_, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, kM, kN,
                            kK, &alpha, a_there.data(), kStride, b_there.data(), kStride, &beta,
                            c_there.data(), kStride),
                CUBLAS_STATUS_SUCCESS);
      const std::vector<float> found = c_there.values();
      for (int col = 0; col < kN; ++col) {
        for (int row = 0; row < kStride; ++row) {
          const auto at = static_cast<size_t>(col * kStride + row);
          double sum = 0;
          for (int i = 0; i < kK; ++i)
            sum += element(a, kStride, ta, row, i) * element(b, kStride, tb, i, col);
          const double expected = row < kM ? 0.5 * sum - 2.0 * c[at] : c[at];
          EXPECT_NEAR(found[at], expected, 1e-5) << ta << tb << " row " << row << " column " << col;
        }
      }
    }
  }
}

uint16_t bf16(float value) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

TEST_F(EmulatedBlas, Bf16ProductsAreSummedInFloatAndCIsNotRead) {
  constexpr int kM = 4;
  constexpr int kN = 2;
  constexpr int kK = 100;
  const std::vector<float> a = random(kM * kK);  // rows of k, as the project's weights lie
  const std::vector<float> b = random(kN * kK);
  std::vector<uint16_t> a_bits;
  std::vector<uint16_t> b_bits;
  for (const float value : a) a_bits.push_back(bf16(value));
  for (const float value : b) b_bits.push_back(bf16(value));
  const There<uint16_t> a_there(a_bits);
  const There<uint16_t> b_there(b_bits);
  const There<float> floats(std::vector<float>(kM * kN, kNan));
  const There<uint16_t> rounded(std::vector<uint16_t>(kM * kN, 0xFFFF));
  const float one = 1.0F;
  const float zero = 0.0F;
  const auto multiply = [&](void* c, cudaDataType type) {
    return cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, kM, kN, kK, &one, a_there.data(), CUDA_R_16BF, kK,
                        b_there.data(), CUDA_R_16BF, kK, &zero, c, type, kM, CUBLAS_COMPUTE_32F,
                        CUBLAS_GEMM_DEFAULT);
  };
  ASSERT_EQ(multiply(floats.data(), CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(multiply(rounded.data(), CUDA_R_16BF), CUBLAS_STATUS_SUCCESS);
  const std::vector<float> found = floats.values();
  const std::vector<uint16_t> found_rounded = rounded.values();
  for (int col = 0; col < kN; ++col) {
    for (int row = 0; row < kM; ++row) {
      double sum = 0;
      for (int i = 0; i < kK; ++i) sum += element(a, kK, true, row, i) * element(b, kK, false, i, col);
      const auto at = static_cast<size_t>(col * kM + row);
      EXPECT_NEAR(found[at], sum, 1e-4);
      const auto wide = std::bit_cast<float>(static_cast<uint32_t>(found_rounded[at]) << 16);
      EXPECT_NEAR(wide, sum, std::abs(sum) / 256) << "half a step of 8 bits";
    }
  }
}

TEST_F(EmulatedBlas, RefusesWhatItDoesNotKnow) {
  const There<float> c(std::vector<float>(4));
  const float one = 1.0F;
  const auto multiply = [&](int stride, cudaDataType type, cublasComputeType_t compute) {
    return cublasGemmEx(handle_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, c.data(), type, stride, c.data(),
                        type, 2, &one, c.data(), CUDA_R_32F, 2, compute, CUBLAS_GEMM_DEFAULT);
  };
  EXPECT_EQ(multiply(1, CUDA_R_32F, CUBLAS_COMPUTE_32F), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(multiply(2, CUDA_R_16F, CUBLAS_COMPUTE_32F), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(multiply(2, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(cublasSetWorkspace(handle_, c.data(), 17), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasSetWorkspace(handle_, c.data(), 16), CUBLAS_STATUS_SUCCESS);
  EXPECT_STREQ(cublasGetStatusName(CUBLAS_STATUS_NOT_SUPPORTED), "CUBLAS_STATUS_NOT_SUPPORTED");
}

}  // namespace
}  // namespace sluice::emulator
