// Rows taken by a list, added back, and the experts' outputs of a range of slots; page-locked memory as it
// is.
#include "kernels_cuda/row_lists.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/host_registration.h"
#include "kernels_cuda/post.h"
#include "quant/base/number.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

class CudaRowLists : public OnGpu {};

TEST_F(CudaRowLists, RowsGoToPageLockedMemoryAndBack) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kTokens = 37;
  constexpr int64_t kWidth = 1036;  // more than a block takes at once, and no multiple of it
  const std::vector<float> values = random_.normal(kTokens * kWidth);
  std::vector<uint16_t> x(values.size());
  std::ranges::transform(values, x.begin(), [](float v) { return f32_to_bf16(v); });
  const cuda::DeviceBuffer<uint16_t> x_there(x);
  const std::vector<int32_t> list{36, 0, 5, 17};
  const auto rows = static_cast<int64_t>(list.size());
  const cuda::PinnedBuffer<int32_t> list_here(rows);
  std::ranges::copy(list, list_here.data());
  const cuda::PinnedBuffer<float> taken(rows * kWidth);
  cuda::gather_rows(
      {.x = x_there.data(), .list = list_here.data(), .y = taken.data(), .rows = rows, .n = kWidth},
      stream());
  const std::vector<float> y = random_.normal(kTokens * kWidth);
  const cuda::DeviceBuffer<float> y_there(y);
  cuda::add_rows(
      {.x = taken.data(), .list = list_here.data(), .y = y_there.data(), .rows = rows, .n = kWidth},
      stream());
  std::vector<float> expected = y;
  for (size_t i = 0; i < list.size(); ++i) {
    for (size_t c = 0; c < static_cast<size_t>(kWidth); ++c) {
      const size_t at = static_cast<size_t>(list[i] * kWidth) + c;
      expected[at] += bf16_to_f32(x[at]);
    }
  }
  EXPECT_TRUE(identical(y_there.to_host(stream()), expected));
  for (size_t c = 0; c < static_cast<size_t>(kWidth); ++c) {
    EXPECT_EQ(taken.data()[c], bf16_to_f32(x[static_cast<size_t>(36 * kWidth) + c]));
  }
}

TEST_F(CudaRowLists, SlotsOfARangeAreAddedInOrder) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kWidth = 520;
  constexpr int64_t kUsed = 3;
  const std::vector<int32_t> slots{-1, 4, 7, 5, -1, 3, 9, 8, 0, 6, 5, 4};
  const int64_t tokens = static_cast<int64_t>(slots.size()) / kUsed;
  const std::vector<float> weights = random_.normal(tokens * kUsed);
  const std::vector<float> parts = random_.normal(4 * kWidth);
  const std::vector<float> y = random_.normal(tokens * kWidth);
  std::vector<float> expected = y;
  for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
    for (size_t k = 0; k < static_cast<size_t>(kUsed); ++k) {
      const int32_t part = slots[t * kUsed + k] - 4;
      for (size_t c = 0; part >= 0 && part < 4 && c < static_cast<size_t>(kWidth); ++c) {
        float& sum = expected[t * static_cast<size_t>(kWidth) + c];
        sum = std::fma(weights[t * kUsed + k], parts[static_cast<size_t>(part * kWidth) + c], sum);
      }
    }
  }
  const cuda::DeviceBuffer<float> parts_there(parts);
  const cuda::DeviceBuffer<int32_t> slots_there(slots);
  const cuda::DeviceBuffer<float> weights_there(weights);
  const cuda::DeviceBuffer<float> y_there(y);
  cuda::add_slots({.parts = parts_there.data(),
                   .first_slot = 4,
                   .count = 4,
                   .slots = slots_there.data(),
                   .weights = weights_there.data(),
                   .y = y_there.data(),
                   .n_tokens = tokens,
                   .used = kUsed,
                   .n = kWidth},
                  stream());
  EXPECT_TRUE(identical(y_there.to_host(stream()), expected));
}

TEST_F(CudaRowLists, RefusesOddWidths) {
  const cuda::DeviceBuffer<float> some(64);
  const std::string text = error_text([&] {
    cuda::add_rows({.x = some.data(), .list = nullptr, .y = some.data(), .rows = 1, .n = 6}, stream());
    return 0;
  });
  EXPECT_NE(text.find("multiples of 4"), std::string::npos) << text;
}

TEST_F(CudaRowLists, WordsAreFetchedFromPageLockedMemory) {
  for (const int64_t words : {1, 7, 4096, 70003}) {
    const cuda::PinnedBuffer<int32_t> here(words);
    std::iota(here.data(), here.data() + words, 5);
    const cuda::DeviceBuffer<int32_t> there(words);
    cuda::fetch({here.data(), there.data(), words}, stream());
    EXPECT_TRUE(std::ranges::equal(there.to_host(stream()), here.values())) << words;
  }
}

TEST_F(CudaRowLists, RegisteredMemoryIsCopiedWithoutAWait) {
  std::vector<std::byte> memory(size_t{3} << 20, std::byte{7});
  cuda::HostRegistration locked(memory);
  EXPECT_EQ(locked.memory().size(), memory.size());
  const std::string text = error_text([&] {
    const cuda::HostRegistration again(memory);
    return 0;
  });
  EXPECT_NE(text.find("page-locking 3145728 bytes"), std::string::npos) << text;
  locked = {};  // the temporary that it was swapped with lets go
  const cuda::HostRegistration again(memory);
  const cuda::DeviceBuffer<std::byte> there(static_cast<int64_t>(memory.size()));
  there.copy_from(memory, stream());
  EXPECT_EQ(there.to_host(stream()), memory);
}

}  // namespace
}  // namespace sluice::testing
