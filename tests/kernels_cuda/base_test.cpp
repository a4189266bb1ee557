// Buffers, streams, events and errors of kernels_cuda/base.
#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "kernels_cuda/base/launch_names.h"
#include "kernels_cuda/base/memory_count.h"
#include "kernels_cuda/base/out_of_memory.h"
#include "kernels_cuda/kernels_cuda.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

TEST(CudaWithoutGpu, CheckNamesTheCallAndTheError) {
  EXPECT_EQ(error_text([] { return cuda::check(cudaSuccess, "nothing"), 0; }), "no error");
  const std::string text =
      error_text([] { return cuda::check(cudaErrorMemoryAllocation, "cudaMalloc of 7 bytes"), 0; });
  EXPECT_NE(text.find("cudaMalloc of 7 bytes: expected success, found cudaErrorMemoryAllocation"),
            std::string::npos)
      << text;
}

TEST(CudaWithoutGpu, AMissingDeviceIsAnError) {
  const int devices = cuda::device_count();
  EXPECT_EQ(devices == 0, !cuda::why_no_device().empty());
  EXPECT_NE(error_text([&] { return cuda::device_properties(devices).capability; }), "no error");
  EXPECT_NE(error_text([&] { return cuda::use_device(-1), 0; }), "no error");
}

TEST(CudaWithoutGpu, LaunchesAreNotedOnceInTheirThreadsList) {
  cuda::note_launch("nobody's");
  cuda::LaunchNames first;
  EXPECT_TRUE(first.names().empty());
  first.begin();
  for (const char* const name : {"norm", "gemv", "norm"}) cuda::note_launch(name);
  std::thread([] { cuda::note_launch("another thread's"); }).join();
  EXPECT_EQ(first.names(), (std::vector<std::string>{"norm", "gemv"}));
  {
    cuda::LaunchNames second;
    second.begin();
    cuda::note_launch("rope");
    EXPECT_EQ(second.names(), (std::vector<std::string>{"rope"}));
  }
  cuda::note_launch("when the list is gone");
  EXPECT_EQ(first.names(), (std::vector<std::string>{"norm", "gemv"}));
  first.begin();
  EXPECT_TRUE(first.names().empty());
}

class CudaBase : public OnGpu {};

TEST_F(CudaBase, Properties) {
  const cuda::DeviceProperties gpu = cuda::device_properties(0);
  EXPECT_FALSE(gpu.name.empty());
  EXPECT_GT(gpu.multiprocessors, 0);
  EXPECT_GE(gpu.shared_bytes_per_block, cuda::kMostSharedBytes);
  EXPECT_GT(gpu.l2_bytes, 0);
  const cuda::DeviceMemory memory = cuda::device_memory();
  EXPECT_GT(memory.free_bytes, 0);
  EXPECT_LE(memory.free_bytes, memory.total_bytes);
}

TEST_F(CudaBase, WhatGoesToTheGpuComesBack) {
  SCOPED_TRACE(random_.describe());
  const std::vector<float> values = random_.normal(1001);
  const cuda::DeviceBuffer<float> there(values);
  EXPECT_EQ(there.size(), 1001);
  EXPECT_EQ(there.to_host(stream()), values);
  cuda::DeviceBuffer<float> second(1001);
  second.copy_from(values, stream());
  EXPECT_EQ(second.to_host(stream()), values);
  second.fill_bytes(0xff, stream());
  const std::vector<float> filled = second.to_host(stream());
  EXPECT_TRUE(std::ranges::all_of(filled, [](float v) { return v != v; }));
}

TEST_F(CudaBase, PinnedMemoryIsReadable) {
  const cuda::PinnedBuffer<int32_t> pinned(77);
  std::ranges::fill(pinned.values(), 5);
  const cuda::DeviceBuffer<int32_t> there(77);
  there.copy_from(pinned.values(), stream());
  EXPECT_EQ(there.to_host(stream()), std::vector<int32_t>(77, 5));
}

TEST_F(CudaBase, EventsMeasureAndOrder) {
  const cuda::Event begin(cuda::EventKind::kTiming);
  const cuda::Event end(cuda::EventKind::kTiming);
  const cuda::DeviceBuffer<std::byte> bytes(64 << 20);
  const cuda::Stream other;
  begin.record(stream());
  bytes.fill_bytes(1, stream());
  end.record(stream());
  end.make_wait(other.get());
  other.synchronize();
  EXPECT_GT(cuda::elapsed_ms(begin, end), 0.0F);
}

TEST_F(CudaBase, TooMuchMemoryIsOneError) {
  const std::string text = error_text([] { return cuda::DeviceBuffer<std::byte>(int64_t{1} << 50).size(); });
  EXPECT_TRUE(text.starts_with("GPU memory: expected 1125899.91 GB (1125899906842624 bytes), found "))
      << text;
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "the next launch must not report it again";
}

TEST_F(CudaBase, ALimitIsMetAsAFullCardIs) {
  cuda::MemoryCount& count = cuda::device_memory_count();
  const int64_t before = count.taken();
  {
    const cuda::DeviceBuffer<std::byte> held(1000);
    EXPECT_EQ(count.taken(), before + 1000);
    count.set_limit(before + 1500);
    EXPECT_THROW(cuda::DeviceBuffer<std::byte>(501), cuda::OutOfMemory);
    EXPECT_EQ(cuda::DeviceBuffer<std::byte>(500).size(), 500);
    count.set_limit(cuda::MemoryCount::kNoLimit);
  }
  EXPECT_EQ(count.taken(), before);
}

TEST(CudaMemoryCount, TakesUpToTheLimit) {
  cuda::MemoryCount count;
  EXPECT_TRUE(count.take(int64_t{1} << 60));
  count.give_back(int64_t{1} << 60);
  count.set_limit(100);
  EXPECT_TRUE(count.take(60));
  EXPECT_FALSE(count.take(41));
  EXPECT_EQ(count.taken(), 60);
  EXPECT_TRUE(count.take(40));
  count.set_limit(50);  // below what is taken
  EXPECT_FALSE(count.take(1));
  count.give_back(60);
  EXPECT_TRUE(count.take(10));
}

}  // namespace
}  // namespace sluice::testing
