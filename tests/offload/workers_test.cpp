// Every element once, worker numbers that may index scratch memory, exceptions.
#include "offload/workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/random_tensors.h"

namespace sluice::offload {
namespace {

TEST(Workers, EveryElementIsVisitedOnce) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int64_t threads = 1; threads <= 5; ++threads) {
    Workers workers(threads);
    EXPECT_EQ(workers.threads(), threads);
    for (int trial = 0; trial < 50; ++trial) {
      const int64_t n = random.integer(0, 300);
      const int64_t grain = random.integer(0, 40);  // 0 counts as 1
      std::vector<std::atomic<int>> visits(static_cast<size_t>(n));
      workers.for_ranges(n, grain, [&](int64_t begin, int64_t end, int64_t) {
        ASSERT_LT(begin, end);
        ASSERT_LE(end - begin, std::max<int64_t>(grain, 1));
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      });
      for (const std::atomic<int>& count : visits) ASSERT_EQ(count, 1) << n << " by " << grain;
    }
  }
}

TEST(Workers, NoTwoCallsShareAWorker) {
  Workers workers(4);
  std::vector<std::atomic<bool>> busy(4);
  std::atomic<int> clashes = 0;
  workers.for_ranges(2000, 1, [&](int64_t, int64_t, int64_t worker) {
    if (worker < 0 || worker >= 4 || busy[static_cast<size_t>(worker)].exchange(true)) {
      ++clashes;
      return;
    }
    std::atomic<int> work = 0;
    while (work < 200) ++work;
    busy[static_cast<size_t>(worker)] = false;
  });
  EXPECT_EQ(clashes, 0);
}

TEST(Workers, WhatTheyWroteIsSeenAfterwards) {
  Workers workers(3);
  std::vector<int64_t> values(1000);  // no atomics: ThreadSanitizer checks the order
  for (int round = 1; round <= 20; ++round) {
    workers.for_ranges(1000, 7, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += i;
    });
    for (int64_t i = 0; i < 1000; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], i * round);
  }
}

TEST(Workers, ExceptionsReachTheCallerAndLeaveThemUsable) {
  for (const int64_t threads : {1, 3}) {
    Workers workers(threads);
    EXPECT_THROW(workers.for_ranges(100, 1,
                                    [](int64_t begin, int64_t, int64_t) {
                                      if (begin == 40) throw std::runtime_error("at 40");
                                    }),
                 std::runtime_error);
    std::atomic<int64_t> sum = 0;
    workers.for_ranges(100, 3, [&](int64_t begin, int64_t end, int64_t) { sum += end - begin; });
    EXPECT_EQ(sum, 100);
  }
}

// Short work may well be done before a second thread wakes, and then nothing crosses from thread to thread.
// Here the caller's own ranges wait until another thread has thrown.
TEST(Workers, ExceptionsCrossFromAnotherThread) {
  using Clock = std::chrono::steady_clock;
  Workers workers(3);
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 20; ++round) {
    std::atomic<bool> thrown = false;
    const Clock::time_point give_up = Clock::now() + std::chrono::seconds(60);
    std::string text;
    try {
      workers.for_ranges(100, 1, [&](int64_t, int64_t, int64_t) {
        if (std::this_thread::get_id() != caller) {
          thrown = true;
          throw std::runtime_error("round " + std::to_string(round));
        }
        while (!thrown && Clock::now() < give_up) std::this_thread::yield();
      });
    } catch (const std::runtime_error& error) {
      text = error.what();
    }
    ASSERT_EQ(text, "round " + std::to_string(round)) << (thrown ? "lost" : "no other thread came");
  }
}

}  // namespace
}  // namespace sluice::offload
