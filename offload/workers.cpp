#include "offload/workers.h"

#include <pthread.h>
#include <sched.h>

#include <cassert>
#include <string>
#include <system_error>
#include <utility>

#include "quant/base/error.h"

namespace sluice::offload {
namespace {

int64_t allowed_cpus() {
  cpu_set_t set;
  // A machine of more than 1024 processors does not fit cpu_set_t: then there are surely enough.
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : CPU_SETSIZE;
}

// Layout of the attendance book: number of the job in the upper half, then one bit, then two counts.
constexpr uint64_t kInside = 1;            // one worker that is inside
constexpr uint64_t kEntered = 1ULL << 15;  // one worker that came in
constexpr uint64_t kClosed = 1ULL << 31;   // too late
constexpr uint64_t kCountMask = kEntered - 1;

constexpr uint64_t new_page(uint32_t number) {
  return uint64_t{number} << 32;
}
constexpr int64_t inside(uint64_t book) {
  return static_cast<int64_t>(book & kCountMask);
}
constexpr int64_t entered(uint64_t book) {
  return static_cast<int64_t>((book / kEntered) & kCountMask);
}

void join(std::vector<std::thread>& threads) {
  for (std::thread& thread : threads) {
    thread.join();
  }
}

void name_this_thread(int64_t worker) {
  pthread_setname_np(pthread_self(), ("sluice-" + std::to_string(worker)).c_str());
}

}  // namespace

SpinTime spin_time_for(int64_t threads) {
  return threads <= allowed_cpus() ? kPatientSpin : kBriefSpin;
}

struct ThreadBinding::Mask {
  cpu_set_t cpus;
};

ThreadBinding::ThreadBinding(int32_t cpu) {
  if (cpu < 0 || cpu >= CPU_SETSIZE) {
    return;
  }
  auto before = std::make_unique<Mask>();
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(cpu), &one);
  if (sched_getaffinity(0, sizeof(before->cpus), &before->cpus) == 0 &&
      sched_setaffinity(0, sizeof(one), &one) == 0) {
    before_ = std::move(before);
  }
}

ThreadBinding::~ThreadBinding() {
  if (before_ != nullptr) {
    sched_setaffinity(0, sizeof(before_->cpus), &before_->cpus);
  }
}

Workers::Workers(int64_t threads) : Workers(std::vector<ThreadPlace>(static_cast<size_t>(threads))) {}

Workers::Workers(std::vector<ThreadPlace> places)
    : places_(std::move(places)), spin_(spin_time_for(static_cast<int64_t>(places_.size()))) {
  assert(!places_.empty());
  others_.reserve(places_.size() - 1);
  try {
    for (int64_t worker = 1; worker < threads(); ++worker) {
      others_.emplace_back([this, worker] { work(worker); });
    }
  } catch (const std::system_error& error) {
    announce({});
    join(others_);
    throw Error("-t/--threads", std::to_string(threads()) + " threads that the system lets start",
                std::to_string(others_.size() + 1) + ", then " + error.code().message());
  }
}

Workers::~Workers() {
  announce({});
  join(others_);
}

void Workers::announce(const Job& job) {
  assert(inside(book_.load()) == 0);  // one job at a time
  job_ = job;
  const uint32_t number = number_.load(std::memory_order_relaxed) + 1;
  book_.store(new_page(number));
  number_.store(number);
  job_place_.wake();
}

// False when the job is over; then job_ must not be looked at.
bool Workers::enter(uint32_t number) {
  uint64_t book = book_.load(std::memory_order_relaxed);
  do {
    if (book >> 32 != number || (book & kClosed) != 0) {
      return false;
    }
  } while (!book_.compare_exchange_weak(book, book + kEntered + kInside));
  return true;
}

void Workers::work(int64_t worker) {
  name_this_thread(worker);
  const ThreadBinding binding(places_[static_cast<size_t>(worker)].cpu);
  for (uint32_t seen = 0;;) {
    job_place_.wait([&] { return number_.load() != seen; }, spin_);
    seen = number_.load();
    if (!enter(seen)) {
      continue;
    }
    const bool end = job_.call == nullptr;
    if (!end) {
      call(worker);
    }
    if (inside(book_.fetch_sub(kInside)) == 1) {
      end_place_.wake();
    }
    if (end) {
      return;
    }
  }
}

void Workers::call(int64_t worker) noexcept {
  try {
    job_.call(job_.context, worker);
  } catch (...) {
    if (!failed_.exchange(true)) {
      failure_ = std::current_exception();
    }
  }
}

void Workers::run(const Job& job) {
  announce(job);
  call(0);
  if (job.attendance == Attendance::kAll) {
    const int64_t others = threads() - 1;
    const auto over = [&] {
      const uint64_t book = book_.load();
      return entered(book) == others && inside(book) == 0;
    };
    end_place_.wait(over, spin_);
  } else {
    book_.fetch_or(kClosed);
    end_place_.wait([&] { return inside(book_.load()) == 0; }, spin_);
  }
  if (failed_.load(std::memory_order_relaxed)) {
    failed_.store(false, std::memory_order_relaxed);
    std::rethrow_exception(std::exchange(failure_, nullptr));
  }
}

}  // namespace sluice::offload
