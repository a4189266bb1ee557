// The device, its memory, copies, and what a kernel's error leaves behind.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <stdlib.h>  // setenv

#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/stream.h"

namespace sluice::emulator {
namespace {

std::byte* device_memory(size_t bytes) {
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, bytes), cudaSuccess);
  return static_cast<std::byte*>(data);
}

std::byte* pinned_memory(size_t bytes) {
  void* data = nullptr;
  EXPECT_EQ(cudaHostAlloc(&data, bytes, cudaHostAllocPortable), cudaSuccess);
  return static_cast<std::byte*>(data);
}

TEST(EmulatedDevice, IsOneOfTheOldestKind) {
  int count = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 1);
  cudaDeviceProp properties{};
  EXPECT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  EXPECT_EQ(std::string(properties.name), "emulated GPU");
  EXPECT_EQ(properties.major * 10 + properties.minor, 80);
  int value = 0;
  EXPECT_EQ(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), cudaSuccess);
  EXPECT_EQ(value, 101376);
  EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaGetDeviceProperties(&properties, -1), cudaErrorInvalidDevice);
  EXPECT_EQ(std::string(cudaGetErrorName(cudaGetLastError())), "cudaErrorInvalidDevice");
  EXPECT_EQ(cudaFuncSetAttribute(&count, cudaFuncAttributeMaxDynamicSharedMemorySize, 101376), cudaSuccess);
  EXPECT_EQ(cudaFuncSetAttribute(&count, cudaFuncAttributeMaxDynamicSharedMemorySize, 101377),
            cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
}

TEST(EmulatedMemory, IsAlignedCountedAndNotZero) {
  const int64_t before = free_device_bytes();
  for (const size_t bytes : {1UL, 255UL, 256UL, 4095UL, 4096UL, 100'000UL}) {
    std::byte* const data = device_memory(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 256, 0U);
    EXPECT_EQ(data[0], std::byte{0xFF});
    EXPECT_EQ(data[bytes - 1], std::byte{0xFF});
    EXPECT_EQ(free_device_bytes(), before - static_cast<int64_t>(bytes));
    EXPECT_EQ(cudaFree(data), cudaSuccess);
  }
  EXPECT_EQ(free_device_bytes(), before);
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
}

TEST(EmulatedMemory, EndsWhereTheDeviceDoes) {
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, static_cast<size_t>(kDeviceBytes) + 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(data, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  size_t free = 0;
  size_t total = 0;
  EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  EXPECT_EQ(total, static_cast<size_t>(kDeviceBytes));
  std::byte* const all = device_memory(free);
  EXPECT_EQ(cudaMalloc(&data, 1), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaFree(all), cudaSuccess);
  static_cast<void>(cudaGetLastError());
}

TEST(EmulatedMemoryDeathTest, WritesAroundAnAllocationAreSeen) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        std::byte* const data = device_memory(100);
        data[100] = std::byte{0};
        cudaFree(data);
      },
      "bytes behind an allocation of 100");
  EXPECT_DEATH(
      {
        std::byte* const data = pinned_memory(100);
        data[-1] = std::byte{0};
        cudaFreeHost(data);
      },
      "bytes before an allocation of 100");
  EXPECT_DEATH(
      {
        std::byte* const data = device_memory(256);
        data[256] = std::byte{0};
      },
      "");
  EXPECT_DEATH(
      {
        std::byte* const data = device_memory(256);
        cudaFree(data);
        data[0] = std::byte{0};
      },
      "");
}

TEST(EmulatedMemory, OnlyWhatWasAllocatedIsFreed) {
  std::byte* const device = device_memory(64);
  std::byte* const pinned = pinned_memory(64);
  EXPECT_EQ(cudaFree(device + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(pinned), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(device), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(device), cudaSuccess);
  EXPECT_EQ(cudaFree(device), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
  static_cast<void>(cudaGetLastError());
}

TEST(EmulatedMemory, IsFreedAfterWhatUsesIt) {
  std::byte* const data = device_memory(64);
  std::atomic<int> value = 0;
  enqueue(nullptr, [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    value = std::to_integer<int>(data[0]);
  });
  EXPECT_EQ(cudaFree(data), cudaSuccess);
  EXPECT_EQ(value, 0xFF);
}

TEST(EmulatedMemory, ForeignMemoryIsRegisteredOnce) {
  std::vector<std::byte> memory(10'000);
  EXPECT_EQ(cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable), cudaSuccess);
  EXPECT_EQ(place_of(memory.data() + 1, memory.size() - 1), Place::kPinned);
  EXPECT_EQ(place_of(memory.data() + 1, memory.size()), Place::kPageable);
  EXPECT_EQ(cudaHostRegister(memory.data() + 9'999, 1, cudaHostRegisterPortable),
            cudaErrorHostMemoryAlreadyRegistered);
  EXPECT_EQ(cudaHostUnregister(memory.data() + 1), cudaErrorHostMemoryNotRegistered);
  EXPECT_EQ(cudaHostUnregister(memory.data()), cudaSuccess);
  EXPECT_EQ(place_of(memory.data(), 1), Place::kPageable);
  EXPECT_EQ(cudaHostRegister(memory.data(), 0, cudaHostRegisterPortable), cudaErrorInvalidValue);
  EXPECT_EQ(cudaHostRegister(reinterpret_cast<void*>(4096), 1, cudaHostRegisterPortable),
            cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
}

TEST(EmulatedCopy, GoesThereAndBack) {
  std::vector<std::byte> values(100'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::byte>(i * 7);
  std::byte* const a = device_memory(values.size());
  std::byte* const b = device_memory(values.size());
  std::vector<std::byte> back(values.size());
  EXPECT_EQ(cudaMemcpy(a, values.data(), values.size(), cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(b, a, values.size(), cudaMemcpyDeviceToDevice), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(back.data(), b, values.size(), cudaMemcpyDeviceToHost, nullptr), cudaSuccess);
  EXPECT_EQ(back, values) << "to pageable memory a copy waits";
  EXPECT_EQ(cudaMemset(b, 3, values.size()), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(back.data(), b, values.size(), cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(back, std::vector<std::byte>(values.size(), std::byte{3}));
  EXPECT_EQ(cudaFree(a), cudaSuccess);
  EXPECT_EQ(cudaFree(b), cudaSuccess);
}

TEST(EmulatedCopy, RowsKeepTheirPitches) {
  const std::vector<uint8_t> values{1, 2, 3, 4, 5, 6, 7, 8, 9};  // [3, 3]
  std::byte* const there = device_memory(15);
  EXPECT_EQ(cudaMemset(there, 0, 15), cudaSuccess);
  EXPECT_EQ(cudaMemcpy2D(there, 5, values.data(), 3, 2, 3, cudaMemcpyHostToDevice), cudaSuccess);
  std::vector<uint8_t> back(15);
  EXPECT_EQ(cudaMemcpy(back.data(), there, 15, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(back, (std::vector<uint8_t>{1, 2, 0, 0, 0, 4, 5, 0, 0, 0, 7, 8, 0, 0, 0}));
  EXPECT_EQ(cudaMemcpy2D(there, 5, values.data(), 1, 2, 3, cudaMemcpyHostToDevice),
            cudaErrorInvalidPitchValue);
  EXPECT_EQ(cudaMemcpy2D(there, 7, values.data(), 2, 2, 3, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(there), cudaSuccess);
  static_cast<void>(cudaGetLastError());
}

TEST(EmulatedCopy, RangesAndDirectionsAreChecked) {
  std::byte* const there = device_memory(16);
  std::vector<std::byte> here(32);
  EXPECT_EQ(cudaMemcpy(there, here.data(), 17, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(there + 8, here.data(), 9, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(there, here.data(), 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(there, here.data(), 16, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(there, nullptr, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(here.data(), here.data() + 16, 16, cudaMemcpyHostToHost),
            cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemset(there, 0, 17), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(here.data(), 0, 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(there, here.data(), 0, cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_EQ(cudaFree(there), cudaSuccess);
  static_cast<void>(cudaGetLastError());
}

// What is not page-locked is read at once, what is as late as the stream comes to it.
TEST(EmulatedCopy, SourcesAreReadWhenCudaReadsThem) {
  std::byte* const there = device_memory(2);
  std::byte* const pinned = pinned_memory(1);
  std::byte pageable{1};
  pinned[0] = std::byte{1};
  std::atomic<bool> open = false;
  enqueue(nullptr, [&] { open.wait(false); });
  EXPECT_EQ(cudaMemcpyAsync(there, pinned, 1, cudaMemcpyHostToDevice, nullptr), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(there + 1, &pageable, 1, cudaMemcpyHostToDevice, nullptr), cudaSuccess);
  pinned[0] = pageable = std::byte{2};
  open = true;
  open.notify_all();
  std::vector<std::byte> back(2);
  EXPECT_EQ(cudaMemcpy(back.data(), there, 2, cudaMemcpyDeviceToHost), cudaSuccess);
  EXPECT_EQ(back, (std::vector<std::byte>{std::byte{2}, std::byte{1}}));
  EXPECT_EQ(cudaFree(there), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

/// In a process of its own: its GPU is lost. Every wait ends, also that for a stream which waits for the
/// one with the failed kernel, and every call tells the error.
[[noreturn]] void fail(void (*kernel)(), bool launch_tells) {
  cudaStream_t first = nullptr;
  cudaStream_t second = nullptr;
  cudaEvent_t event = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_EQ(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  enqueue(first, kernel);
  if (launch_tells && cudaGetLastError() != cudaErrorIllegalAddress) std::_Exit(1);
  static_cast<void>(cudaEventRecordWithFlags(event, first, cudaEventRecordDefault));
  static_cast<void>(cudaStreamWaitEvent(second, event, 0));
  void* data = nullptr;
  const bool lost =
      cudaStreamSynchronize(second) == cudaErrorIllegalAddress &&
      cudaDeviceSynchronize() == cudaErrorIllegalAddress &&
      cudaStreamQuery(first) == cudaErrorIllegalAddress && cudaMalloc(&data, 1) == cudaErrorIllegalAddress &&
      cudaGetLastError() == cudaErrorIllegalAddress && cudaGetLastError() == cudaErrorIllegalAddress &&
      cudaStreamDestroy(first) == cudaErrorIllegalAddress;
  std::_Exit(lost ? 2 : 1);
}

void write_to_null() {
  static std::byte* volatile nowhere = nullptr;
  *nowhere = std::byte{1};
}

void write_behind() {
  std::byte* volatile data = static_cast<std::byte*>(allocate(Place::kDevice, 256));
  data[256] = std::byte{1};
}

TEST(EmulatedFailureDeathTest, AKernelsBadAddressIsTheProcesssErrorForGood) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  setenv("CUDA_LAUNCH_BLOCKING", "0", 1);
  EXPECT_EXIT(fail(write_behind, false), ::testing::ExitedWithCode(2),
              "emulated GPU: a kernel's access to address");
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
  EXPECT_EXIT(fail(write_to_null, true), ::testing::ExitedWithCode(2), "emulated GPU: a kernel's access");
  unsetenv("CUDA_LAUNCH_BLOCKING");
}

}  // namespace
}  // namespace sluice::emulator
