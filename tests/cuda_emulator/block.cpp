#include "tests/cuda_emulator/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/context/fiber.hpp>
#include <boost/context/preallocated.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <random>
#include <utility>

#include "kernels_cuda/base/device.h"
#include "tests/cuda_emulator/async_copies.h"
#include "tests/cuda_emulator/device_variables.h"
#include "tests/cuda_emulator/thread.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace sluice::emulator {
namespace {

constexpr size_t kMostWarps = 32;
constexpr size_t kStackBytes = size_t{64} << 10;
constexpr size_t kStackStep = 448;  // what a waiting thread holds, about, in whole cache lines
constexpr size_t kMostSkipped = size_t{16} << 10;
/// Of the first byte of dynamic shared memory: no offset passes for an address, and it is aligned to 128 and
/// no more.
constexpr uint32_t kFirstSharedAddress = 4096 + 128;
constexpr size_t kMostShared = cuda::kMostSharedBytes;
constexpr size_t kGuardBytes = 128;
constexpr auto kGuard = std::byte{0xA5};

struct Thread {
  boost::context::fiber fiber;
  uint3 index{};
  AsyncCopies copies;
};

/// Bit l of each mask is lane l.
struct Warp {
  uint32_t living = 0;                          // have not returned
  uint32_t ready = 0;                           // living and not waiting
  uint32_t meeting = 0;                         // waiting in a collective
  std::array<const char*, kWarpLanes> calls{};  // that lanes wait in
  std::array<uint32_t, kWarpLanes> masks{};     // of a collective, or 0
  alignas(64) std::array<LaneWords, kWarpLanes> words;
};

struct Barrier {
  size_t arrived = 0;
  int threads = 0;  // that it waits for, as the first to arrive said; 0: all that live
  bool any = false;
  bool result = false;                         // `any` of the last time
  std::array<uint32_t, kMostWarps> waiting{};  // lanes, by warp
};

std::string text(const uint3& place) {
  return fmt::format("({}, {}, {})", place.x, place.y, place.z);
}

uint64_t seed() {
  const char* given = std::getenv("SLUICE_TEST_SEED");
  return given == nullptr ? 1 : std::strtoull(given, nullptr, 10);
}

/// The one block that runs, and the fibers and the shared memory that each block uses again.
class Block {
 public:
  void run(const Grid& grid, const std::function<void()>& thread);
  [[noreturn]] void fault(const std::string& what) const;

  [[nodiscard]] int lane() const { return static_cast<int>(current_ % kWarpLanes); }
  LaneWords& words() { return warp().words[current_ % kWarpLanes]; }
  AsyncCopies& copies() { return threads_[current_].copies; }
  std::byte* shared() { return shared_memory_.data() + kGuardBytes; }
  [[nodiscard]] size_t shared_bytes() const { return static_cast<size_t>(grid_.shared_bytes); }

  void meet(const char* call, uint32_t mask, void (*compute)(WarpWords, uint32_t));
  bool arrive(const char* call, size_t id, int threads, bool value);

 private:
  static constexpr size_t kScheduler = SIZE_MAX;  // in the place of a thread

  void prepare_threads();
  void run_block();
  void fill_shared();
  void check_guards() const;
  void run_warp(size_t warp);
  [[nodiscard]] boost::context::fiber new_fiber();
  boost::context::fiber& fiber_of(size_t thread);
  // A return after a switch is one that the processor foresees wrongly: of them there shall be few.
  [[gnu::always_inline]] inline void switch_to(size_t thread);
  [[gnu::always_inline]] inline void pass_on();
  [[gnu::always_inline]] inline void wait(const char* call, uint32_t mask);
  void finish_thread();
  void release(size_t warp, uint32_t lanes);
  void complete(Barrier& barrier);
  [[nodiscard]] bool is_complete(const Barrier& barrier) const;
  [[nodiscard]] size_t random_ready_warp();
  [[noreturn]] void fault_deadlock();
  void check_same_call(size_t other, const char* call, uint32_t mask) const;
  Warp& warp() { return warps_[current_ / kWarpLanes]; }

  Grid grid_;
  const std::function<void()>* thread_ = nullptr;
  std::mt19937_64 random_{seed()};
  std::deque<Thread> threads_;  // the first threads_of_block_ are this grid's
  size_t threads_of_block_ = 0;
  size_t living_ = 0;
  size_t current_ = kScheduler;
  size_t previous_ = kScheduler;     // ran before `current_`
  boost::context::fiber scheduler_;  // suspended while a thread runs
  size_t round_warp_ = 0;
  uint32_t round_lanes_ = 0;  // that are still to run in this round of the warp
  bool is_round_reversed_ = false;
  std::array<Warp, kMostWarps> warps_;
  uint32_t ready_warps_ = 0;
  std::array<Barrier, 16> barriers_;
  alignas(256) std::array<std::byte, kGuardBytes + kMostShared + kGuardBytes> shared_memory_;
};

void Block::fault(const std::string& what) const {
  std::string place = fmt::format("kernel {}, block {}", grid_.name, text(blockIdx));
  if (current_ != kScheduler) place += fmt::format(", thread {}", text(threads_[current_].index));
  fmt::print(stderr, "CUDA emulator: {}: {} (SLUICE_TEST_SEED={})\n", place, what, seed());
  std::abort();
}

void Block::run(const Grid& grid, const std::function<void()>& thread) {
  grid_ = grid;
  thread_ = &thread;
  blockDim = grid.block;
  gridDim = grid.grid;
  prepare_threads();
  const uint64_t blocks = uint64_t{grid.grid.x} * grid.grid.y * grid.grid.z;
  const bool is_reversed = random_() % 2 != 0;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t block = is_reversed ? blocks - 1 - i : i;
    blockIdx.x = static_cast<unsigned>(block % grid.grid.x);
    blockIdx.y = static_cast<unsigned>(block / grid.grid.x % grid.grid.y);
    blockIdx.z = static_cast<unsigned>(block / grid.grid.x / grid.grid.y);
    run_block();
  }
}

void Block::prepare_threads() {
  const dim3& shape = grid_.block;
  threads_of_block_ = size_t{shape.x} * shape.y * shape.z;
  while (threads_.size() < threads_of_block_) {
    threads_.emplace_back();
    threads_.back().fiber = new_fiber();
  }
  for (size_t i = 0; i < threads_of_block_; ++i) {
    const auto at = static_cast<unsigned>(i);
    threads_[i].index = {at % shape.x, at / shape.x % shape.y, at / shape.x / shape.y};
  }
}

void Block::run_block() {
  fill_shared();
  const CopyTime time = random_() % 2 == 0 ? CopyTime::kAtOnce : CopyTime::kWhenAwaited;
  for (size_t i = 0; i < threads_of_block_; ++i) threads_[i].copies.begin(time);
  barriers_ = {};
  living_ = threads_of_block_;
  ready_warps_ = 0;
  for (size_t first = 0; first < threads_of_block_; first += kWarpLanes) {
    const size_t count = std::min<size_t>(kWarpLanes, threads_of_block_ - first);
    Warp& w = warps_[first / kWarpLanes];
    w.living = kAllLanes >> (kWarpLanes - count);
    w.meeting = 0;
    w.ready = 0;
    release(first / kWarpLanes, w.living);
  }
  while (living_ > 0) {
    if (ready_warps_ == 0) fault_deadlock();
    run_warp(random_ready_warp());
  }
  check_guards();
}

void Block::fill_shared() {
  std::fill_n(shared() - kGuardBytes, kGuardBytes, kGuard);
  std::fill_n(shared(), shared_bytes(), std::byte{0xFF});
  std::fill_n(shared() + shared_bytes(), kGuardBytes, kGuard);
}

void Block::check_guards() const {
  const auto is_whole = [](const std::byte* guard) {
    return std::all_of(guard, guard + kGuardBytes, [](std::byte b) { return b == kGuard; });
  };
  if (!is_whole(shared_memory_.data())) fault("something wrote before the dynamic shared memory");
  if (!is_whole(shared_memory_.data() + kGuardBytes + shared_bytes())) {
    fault(fmt::format("something wrote behind the {} bytes of dynamic shared memory", shared_bytes()));
  }
}

size_t Block::random_ready_warp() {
  uint32_t ready = ready_warps_;
  for (auto skip = random_() % static_cast<unsigned>(std::popcount(ready)); skip > 0; --skip)
    ready &= ready - 1;
  return static_cast<size_t>(std::countr_zero(ready));
}

/// Some rounds, 1 or thousands, of a warp's lanes, so that warps meet each other at all distances.
void Block::run_warp(size_t warp) {
  const Warp& w = warps_[warp];
  round_warp_ = warp;
  for (uint64_t rounds = uint64_t{1} << random_() % 12; rounds > 0 && w.ready != 0; --rounds) {
    is_round_reversed_ = random_() % 2 != 0;
    round_lanes_ = w.ready;
    pass_on();
  }
}

/// To the next lane of the round, which passes on to the one after it, the last one to the scheduler.
void Block::pass_on() {
  if (round_lanes_ == 0) {
    switch_to(kScheduler);
    return;
  }
  const int lane = is_round_reversed_ ? 31 - std::countl_zero(round_lanes_) : std::countr_zero(round_lanes_);
  round_lanes_ &= ~(1U << lane);
  switch_to(round_warp_ * kWarpLanes + static_cast<size_t>(lane));
}

boost::context::fiber& Block::fiber_of(size_t thread) {
  return thread == kScheduler ? scheduler_ : threads_[thread].fiber;
}

/// Returns when another one switches to this one.
void Block::switch_to(size_t thread) {
  previous_ = current_;
  current_ = thread;
  if (thread != kScheduler) threadIdx = threads_[thread].index;
  boost::context::fiber from = std::move(fiber_of(thread)).resume();
  fiber_of(previous_) = std::move(from);
}

/// Stacks begin at different distances from a page, else the caches would hold few of them.
boost::context::fiber Block::new_fiber() {
  boost::context::protected_fixedsize_stack allocator(kStackBytes);
  const boost::context::stack_context stack = allocator.allocate();
  const size_t skipped = threads_.size() * kStackStep % kMostSkipped;
  const boost::context::preallocated rest(static_cast<std::byte*>(stack.sp) - skipped, stack.size - skipped,
                                          stack);
  return {std::allocator_arg, rest, allocator, [this](boost::context::fiber&& from) -> boost::context::fiber {
            fiber_of(previous_) = std::move(from);
            for (;;) {  // the next block's thread of the same number; ended by the fiber's destruction
              (*thread_)();
              finish_thread();
              pass_on();
            }
          }};
}

/// Until release().
void Block::wait(const char* call, uint32_t mask) {
  const auto me = static_cast<size_t>(lane());
  Warp& w = warp();
  w.calls[me] = call;
  w.masks[me] = mask;
  w.ready &= ~(1U << me);
  if (w.ready == 0) ready_warps_ &= ~(1U << current_ / kWarpLanes);
  pass_on();
}

void Block::release(size_t warp, uint32_t lanes) {
  if (lanes == 0) return;
  warps_[warp].ready |= lanes;
  ready_warps_ |= 1U << warp;
}

void Block::finish_thread() {
  if (const size_t open = copies().open(); open > 0) {
    fault(fmt::format("it ends and has not waited for {} asynchronous copies", open));
  }
  Warp& w = warp();
  w.living &= ~(1U << lane());
  w.ready &= w.living;
  if (w.ready == 0) ready_warps_ &= ~(1U << current_ / kWarpLanes);
  --living_;
  if (is_complete(barriers_[0])) complete(barriers_[0]);
}

void Block::check_same_call(size_t other, const char* call, uint32_t mask) const {
  const Warp& w = warps_[current_ / kWarpLanes];
  const char* others = w.calls[other];
  if (w.masks[other] == mask && (others == call || std::strcmp(others, call) == 0)) return;
  const size_t thread = current_ / kWarpLanes * kWarpLanes + other;
  fault(fmt::format("{} with mask {:08x}, but thread {} of its warp waits in {} with mask {:08x}", call, mask,
                    text(threads_[thread].index), others, w.masks[other]));
}

void Block::meet(const char* call, uint32_t mask, void (*compute)(WarpWords, uint32_t)) {
  Warp& w = warp();
  const uint32_t me = 1U << lane();
  if ((mask & me) == 0) fault(fmt::format("{} with mask {:08x}, which is not of this lane", call, mask));
  if ((mask & ~w.living) != 0) {
    fault(fmt::format("{} with mask {:08x}, but of the warp only lanes {:08x} have not returned", call, mask,
                      w.living));
  }
  const uint32_t here = w.meeting & mask;
  if ((here | me) != mask) {
    w.meeting |= me;
    wait(call, mask);
    return;
  }
  for (uint32_t lanes = here; lanes != 0; lanes &= lanes - 1) {
    check_same_call(static_cast<size_t>(std::countr_zero(lanes)), call, mask);
  }
  if (compute != nullptr) compute(w.words, mask);
  w.meeting &= ~here;
  release(current_ / kWarpLanes, here);
}

bool Block::is_complete(const Barrier& barrier) const {
  const size_t expected = barrier.threads == 0 ? living_ : static_cast<size_t>(barrier.threads);
  return barrier.arrived > 0 && barrier.arrived == expected;
}

void Block::complete(Barrier& barrier) {
  for (size_t i = 0; i < kMostWarps; ++i) release(i, std::exchange(barrier.waiting[i], 0));
  barrier.arrived = 0;
  barrier.result = std::exchange(barrier.any, false);
}

/// `result` stays until all that wait have read it: the next time needs every one of them.
bool Block::arrive(const char* call, size_t id, int threads, bool value) {
  Barrier& barrier = barriers_[id];
  if (barrier.arrived == 0) barrier.threads = threads;
  if (barrier.threads != threads) {
    fault(fmt::format("{} {} for {} threads, but others wait there for {}", call, id, threads,
                      barrier.threads));
  }
  ++barrier.arrived;
  barrier.any |= value;
  if (is_complete(barrier)) {
    complete(barrier);
  } else {
    barrier.waiting[current_ / kWarpLanes] |= 1U << lane();
    wait(call, 0);
  }
  return barrier.result;
}

void Block::fault_deadlock() {
  std::string where;
  const char* last = nullptr;
  for (size_t i = 0; i < threads_of_block_; ++i) {
    const Warp& w = warps_[i / kWarpLanes];
    const bool lives = (w.living >> i % kWarpLanes & 1) != 0;
    const char* call = lives ? w.calls[i % kWarpLanes] : "(returned)";
    if (last == nullptr || std::strcmp(call, last) != 0)
      where += fmt::format("; from thread {} on: {}", i, call);
    last = call;
  }
  fault("no thread can go on" + where);
}

Block the_block;

}  // namespace

void run_grid(const Grid& grid, const std::function<void()>& thread) {
  static std::mutex one_grid;
  const std::lock_guard lock(one_grid);
  the_block.run(grid, thread);
}

void fault(const std::string& what) {
  the_block.fault(what);
}

LaneWords& lane_words() {
  return the_block.words();
}

int lane() {
  return the_block.lane();
}

void meet(const char* call, uint32_t mask, void (*compute)(WarpWords words, uint32_t mask)) {
  the_block.meet(call, mask, compute);
}

bool barrier_of_block(const char* call, bool value) {
  return the_block.arrive(call, 0, 0, value);
}

void barrier_of_threads(int id, int threads) {
  if (id < 1 || id > 15 || threads <= 0 || threads % kWarpLanes != 0) {
    fault(fmt::format("barrier {} for {} threads: expected 1 to 15, and a multiple of 32", id, threads));
  }
  the_block.arrive("barrier", static_cast<size_t>(id), threads, false);
}

std::byte* shared_memory() {
  return the_block.shared();
}

uint32_t shared_address(const void* at) {
  const auto offset = reinterpret_cast<uintptr_t>(at) - reinterpret_cast<uintptr_t>(the_block.shared());
  if (offset > the_block.shared_bytes())
    fault("a shared address of what is not in the dynamic shared memory");
  return kFirstSharedAddress + static_cast<uint32_t>(offset);
}

std::byte* at_shared_address(uint32_t address, const char* call) {
  const uint32_t offset = address - kFirstSharedAddress;
  if (address % 16 != 0 || offset + size_t{16} > the_block.shared_bytes()) {
    fault(fmt::format("{} at byte {} of {} bytes of dynamic shared memory: expected 16 aligned bytes of it",
                      call, static_cast<int32_t>(offset), the_block.shared_bytes()));
  }
  return the_block.shared() + offset;
}

void copy_16_async(uint32_t to, const void* from, int bytes) {
  if (bytes < 0 || bytes > 16) fault(fmt::format("cp.async of {} bytes: expected 0 to 16", bytes));
  check_aligned(from, 16, "cp.async");
  the_block.copies().add(at_shared_address(to, "cp.async"), from, bytes);
}

void commit_copies() {
  the_block.copies().commit();
}

void wait_for_copies(int pending) {
  the_block.copies().wait(pending);
}

}  // namespace sluice::emulator
