// Every piece comes once, whoever reads and whoever takes; errors and stops reach those who wait.
#include "offload/read_ahead.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "support/error_text.h"
#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

// A piece of a length of its own that begins somewhere in its buffer and holds its number.
std::span<const std::byte> read_number(int64_t piece, ReadBuffer& buffer) {
  const std::span<std::byte> bytes = buffer.first(100 + 5000 * (piece % 3)).last(8);
  std::memcpy(bytes.data(), &piece, sizeof(piece));
  return bytes;
}

int64_t number_in(std::span<const std::byte> bytes) {
  int64_t number = -1;
  EXPECT_EQ(bytes.size(), sizeof(number));
  std::memcpy(&number, bytes.data(), sizeof(number));
  return number;
}

TEST(ReadAhead, EveryPieceComesOnce) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int trial = 0; trial < 20; ++trial) {
    const int64_t n = random.integer(0, 200);
    const int64_t readers = random.integer(1, 9);
    ReadAhead ahead(n, readers, readers + random.integer(0, 4), read_number);
    std::atomic<int64_t> left = n;
    std::mutex mutex;
    std::multiset<int64_t> taken;
    std::vector<std::thread> takers;
    for (int64_t t = random.integer(1, 4); t > 0; --t) {
      takers.emplace_back([&] {
        while (left.fetch_sub(1) > 0) {
          auto filled = ahead.take();
          ASSERT_TRUE(filled.has_value());
          EXPECT_EQ(number_in(filled->bytes), filled->piece);
          {
            const std::lock_guard lock(mutex);
            taken.insert(filled->piece);
          }
          ahead.give_back(*std::move(filled));
        }
      });
    }
    for (std::thread& taker : takers) taker.join();
    ASSERT_EQ(static_cast<int64_t>(taken.size()), n);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(taken.count(i), 1U);
  }
}

TEST(ReadAhead, ReadsNoFurtherThanItHasBuffers) {
  std::atomic<int64_t> reads = 0;
  ReadAhead ahead(1000, 2, 5, [&](int64_t piece, ReadBuffer& buffer) {
    ++reads;
    return read_number(piece, buffer);
  });
  auto filled = ahead.take();
  ASSERT_TRUE(filled.has_value());
  EXPECT_LE(reads, 5);
  ahead.give_back(*std::move(filled));
}

TEST(ReadAhead, ErrorsOfAReadReachEveryTaker) {
  ReadAhead ahead(100, 3, 4, [](int64_t piece, ReadBuffer& buffer) {
    if (piece == 20) throw Error("disk", "bytes", "smoke");
    return read_number(piece, buffer);
  });
  const auto take_all = [&] {
    for (int i = 0; i < 100; ++i) {
      auto filled = ahead.take();
      if (filled.has_value()) ahead.give_back(*std::move(filled));
    }
    return 0;
  };
  EXPECT_EQ(testing::error_text(take_all), "disk: expected bytes, found smoke");
  EXPECT_EQ(testing::error_text(take_all), "disk: expected bytes, found smoke");
}

TEST(ReadAhead, AStopWakesWhoWaits) {
  std::atomic<bool> reading = false;
  std::atomic<bool> go_on = false;
  ReadAhead ahead(10, 1, 1, [&](int64_t piece, ReadBuffer& buffer) {
    reading = true;
    while (!go_on) std::this_thread::yield();
    return read_number(piece, buffer);
  });
  while (!reading) std::this_thread::yield();
  std::thread taker([&] { EXPECT_FALSE(ahead.take().has_value()); });
  ahead.stop();
  taker.join();
  go_on = true;
}

}  // namespace
}  // namespace sluice::offload
