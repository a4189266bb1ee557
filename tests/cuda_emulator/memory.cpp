#include "tests/cuda_emulator/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

namespace sluice::emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;
constexpr size_t kMostFilled = size_t{64} << 20;
constexpr size_t kReserved = size_t{8} << 40;  // address space alone
constexpr std::byte kGuard{0xC5};
constexpr int kUnset = 0xFF;

size_t rounded(size_t bytes, size_t to) {
  return (bytes + to - 1) / to * to;
}

struct Allocation {
  Place place;
  size_t bytes;
  std::byte* mapped;  // whole pages; the data ends in the last kAlignment bytes
  size_t mapped_bytes;
};

using Allocations = std::map<const std::byte*, Allocation>;

struct Memory {
  std::mutex mutex;
  std::byte* next = nullptr;  // of the reserved addresses
  std::byte* end = nullptr;
  Allocations allocations;
  std::map<const std::byte*, size_t> registered;
  int64_t device_bytes = 0;  // taken
};

/// Never destroyed: streams may run until the process is gone.
Memory& memory() {
  static Memory& the_memory = *new Memory;
  return the_memory;
}

bool reserve(Memory& m) {
  void* const at = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return false;
  m.next = static_cast<std::byte*>(at);
  m.end = m.next + kReserved;
  return true;
}

/// Pages with one that is not there behind them; nullptr when there are none.
std::byte* map_pages(Memory& m, size_t bytes) {
  if (m.next == nullptr && !reserve(m)) return nullptr;
  if (bytes + kPage > static_cast<size_t>(m.end - m.next)) return nullptr;
  std::byte* const at = m.next;
  if (mprotect(at, bytes, PROT_READ | PROT_WRITE) != 0) return nullptr;
  m.next += bytes + kPage;
  return at;
}

bool is_guard(const std::byte* begin, const std::byte* end) {
  return std::all_of(begin, end, [](std::byte b) { return b == kGuard; });
}

void check_guards(const std::byte* data, const Allocation& a) {
  const bool before = is_guard(a.mapped, data);
  if (before && is_guard(data + a.bytes, a.mapped + a.mapped_bytes)) return;
  std::fprintf(stderr, "emulated GPU: bytes %s an allocation of %zu were written\n",
               before ? "behind" : "before", a.bytes);
  std::abort();
}

/// The allocation or registration that `at` lies in.
struct Found {
  const std::byte* begin;
  size_t bytes;
  Place place;
};

std::optional<Found> find(const Memory& m, const std::byte* at) {
  if (const auto after = m.allocations.upper_bound(at); after != m.allocations.begin()) {
    const auto& [begin, a] = *std::prev(after);
    if (at < begin + a.bytes) return Found{begin, a.bytes, a.place};
  }
  if (const auto after = m.registered.upper_bound(at); after != m.registered.begin()) {
    const auto& [begin, bytes] = *std::prev(after);
    if (at < begin + bytes) return Found{begin, bytes, Place::kPinned};
  }
  return std::nullopt;
}

}  // namespace

void* allocate(Place place, size_t bytes) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  if (bytes == 0 || bytes > kReserved) return nullptr;
  const auto taken = static_cast<int64_t>(bytes);
  if (place == Place::kDevice && taken > kDeviceBytes - m.device_bytes) return nullptr;
  const size_t body = rounded(bytes, kAlignment);
  const size_t mapped_bytes = rounded(body, kPage);
  std::byte* const mapped = map_pages(m, mapped_bytes);
  if (mapped == nullptr) return nullptr;
  std::byte* const data = mapped + (mapped_bytes - body);
  std::fill(mapped, data, kGuard);
  std::memset(data, kUnset, std::min(bytes, kMostFilled));
  std::fill(data + bytes, mapped + mapped_bytes, kGuard);
  m.allocations.emplace(data, Allocation{place, bytes, mapped, mapped_bytes});
  if (place == Place::kDevice) m.device_bytes += taken;
  return data;
}

bool release(Place place, void* data) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  const auto found = m.allocations.find(static_cast<std::byte*>(data));
  if (found == m.allocations.end() || found->second.place != place) return false;
  const Allocation& a = found->second;
  check_guards(found->first, a);
  mmap(a.mapped, a.mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (place == Place::kDevice) m.device_bytes -= static_cast<int64_t>(a.bytes);
  m.allocations.erase(found);
  return true;
}

Place place_of(const void* data, size_t bytes) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  const auto* const at = static_cast<const std::byte*>(data);
  const std::optional<Found> found = find(m, at);
  const bool whole = found && bytes <= static_cast<size_t>(found->begin + found->bytes - at);
  return whole ? found->place : Place::kPageable;
}

bool touches_device(const void* data, size_t bytes) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  const auto* const at = static_cast<const std::byte*>(data);
  for (auto a = m.allocations.lower_bound(at); a != m.allocations.end() && a->first < at + bytes; ++a) {
    if (a->second.place == Place::kDevice) return true;
  }
  const std::optional<Found> found = find(m, at);
  return found && found->place == Place::kDevice;
}

int64_t free_device_bytes() {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  return kDeviceBytes - m.device_bytes;
}

bool register_pinned(const void* data, size_t bytes) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  const auto* const at = static_cast<const std::byte*>(data);
  const auto after = m.registered.lower_bound(at);
  const bool overlaps = find(m, at) || (after != m.registered.end() && after->first < at + bytes);
  if (overlaps) return false;
  m.registered.emplace(at, bytes);
  return true;
}

bool unregister_pinned(const void* data) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  return m.registered.erase(static_cast<const std::byte*>(data)) == 1;
}

}  // namespace sluice::emulator
