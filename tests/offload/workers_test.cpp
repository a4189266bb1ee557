// Every element once, worker numbers that may index scratch memory, exceptions.
#include "offload/workers.h"

#include <gtest/gtest.h>

#include <sched.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "offload/barrier.h"

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

TEST(Workers, OnAllCallsEveryWorkerOnceAndAtTheSameTime) {
  for (int64_t threads = 1; threads <= 7; ++threads) {
    Workers workers(threads);
    Barrier barrier(threads);  // nobody passes it unless all run at once
    std::vector<int64_t> calls(static_cast<size_t>(threads));
    for (int round = 0; round < 20; ++round) {
      workers.on_all([&](int64_t worker) {
        barrier.arrive_and_wait();
        ++calls[static_cast<size_t>(worker)];
      });
    }
    EXPECT_EQ(calls, std::vector<int64_t>(static_cast<size_t>(threads), 20));
  }
}

TEST(Workers, BarrierShowsWhatOthersWrote) {
  for (const int64_t threads : {2, 3, 6}) {
    Workers workers(threads);
    Barrier barrier(threads);
    std::vector<int64_t> values(
        static_cast<size_t>(threads));  // no atomics: ThreadSanitizer checks the order
    std::atomic<int64_t> wrong = 0;
    workers.on_all([&](int64_t worker) {
      for (int64_t phase = 1; phase <= 50; ++phase) {
        values[static_cast<size_t>(worker)] = phase;
        barrier.arrive_and_wait();
        for (const int64_t value : values) wrong += value != phase;
        barrier.arrive_and_wait();
      }
    });
    EXPECT_EQ(wrong, 0);
  }
}

// Workers that sleep, because nothing came for longer than they spin, wake up again.
TEST(Workers, SleepersWakeUp) {
  for (const int64_t threads : {2, 9}) {
    Workers workers(threads);
    for (int round = 0; round < 5; ++round) {
      std::this_thread::sleep_for(3 * kPatientSpin);
      std::atomic<int64_t> calls = 0;
      workers.on_all([&](int64_t) { ++calls; });
      EXPECT_EQ(calls, threads);
    }
  }
}

// Jobs follow each other so fast that most workers find a job closed, or the next one open, when they come.
TEST(Workers, LateComersMissAJobAndNothingElse) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (const int64_t threads : {2, 5, 16}) {
    Workers workers(threads);
    int64_t sum = 0;
    std::vector<int64_t> per_worker(static_cast<size_t>(threads));  // no atomics: ThreadSanitizer looks
    for (int round = 0; round < 3000; ++round) {
      const int64_t n = random.integer(2, 4);
      sum += n;
      workers.for_ranges(
          n, 1, [&](int64_t, int64_t, int64_t worker) { ++per_worker[static_cast<size_t>(worker)]; });
      if (round % 500 == 0) {
        sum += threads;
        workers.on_all([&](int64_t worker) { ++per_worker[static_cast<size_t>(worker)]; });
      }
    }
    EXPECT_EQ(std::accumulate(per_worker.begin(), per_worker.end(), int64_t{0}), sum);
  }
}

// The caller sleeps too when a worker takes long, and is woken.
TEST(Workers, CallerWaitsForASlowWorker) {
  Workers workers(2);
  std::atomic<bool> finished = false;
  workers.on_all([&](int64_t worker) {
    if (worker == 1) {
      std::this_thread::sleep_for(3 * kPatientSpin);
      finished = true;
    }
  });
  EXPECT_TRUE(finished);
}

double cpu_seconds_of_process() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

TEST(Workers, AnIdleTeamUsesNoProcessor) {
  Workers workers(4);
  workers.on_all([](int64_t) {});
  std::this_thread::sleep_for(4 * kPatientSpin);
  const double before = cpu_seconds_of_process();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  // Three threads that spin would use 0.2 s or more whatever else the machine does.
  EXPECT_LT(cpu_seconds_of_process() - before, 0.1);
}

std::set<int32_t> allowed_cpus_of_this_thread() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  std::set<int32_t> cpus;
  for (int32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &set)) cpus.insert(cpu);
  }
  return cpus;
}

TEST(Workers, PlacesBindThreadsAndTheCallerOnlyOnRequest) {
  const std::set<int32_t> before = allowed_cpus_of_this_thread();
  const int32_t first = *before.begin();
  const int32_t last = *before.rbegin();
  Workers workers({ThreadPlace{.cpu = first, .node = 0}, ThreadPlace{.cpu = last, .node = 0},
                   ThreadPlace{.cpu = -1, .node = 0}});
  ASSERT_EQ(workers.threads(), 3);
  std::vector<std::set<int32_t>> seen(3);
  const auto look = [&](int64_t worker) {
    seen[static_cast<size_t>(worker)] = allowed_cpus_of_this_thread();
  };
  workers.on_all(look);
  EXPECT_EQ(seen, (std::vector<std::set<int32_t>>{before, {last}, before}));
  {
    const ThreadBinding binding = workers.bind_caller();
    workers.on_all(look);
    EXPECT_EQ(seen[0], std::set<int32_t>{first});
  }
  EXPECT_EQ(allowed_cpus_of_this_thread(), before);
}

TEST(Workers, AProcessorThatIsNotThereChangesNothing) {
  const std::set<int32_t> before = allowed_cpus_of_this_thread();
  for (const int32_t cpu : {-1, 1023, 5000}) {
    if (before.contains(cpu)) continue;
    const ThreadBinding binding(cpu);
    EXPECT_EQ(allowed_cpus_of_this_thread(), before);
  }
}

TEST(Workers, ExceptionsOfOnAllReachTheCaller) {
  Workers workers(3);
  for (int64_t thrower = 0; thrower < 3; ++thrower) {
    EXPECT_THROW(workers.on_all([&](int64_t worker) {
      if (worker == thrower) throw std::runtime_error("one of three");
    }),
                 std::runtime_error);
  }
  EXPECT_THROW(workers.on_all([](int64_t) { throw std::runtime_error("all"); }), std::runtime_error);
  std::atomic<int64_t> calls = 0;
  workers.on_all([&](int64_t) { ++calls; });
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace sluice::offload
