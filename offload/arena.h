// Memory for weights: one reservation, bound to a NUMA node, in huge pages where they pay. The only host
// memory that experts live in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sluice::offload {

/// Transparent huge pages: on (the kernel is asked for them), off (it is asked not to), or whatever reads
/// faster here (off below 256 MiB).
enum class HugePages { kProbe, kOn, kOff };

/// Which node's memory pages come from.
enum class MemoryPolicy { kAnywhere, kNode, kInterleave };

struct ArenaOptions {
  std::string purpose = "weights";  // for errors
  MemoryPolicy policy = MemoryPolicy::kAnywhere;
  int32_t node_os_index = 0;  // kNode: the operating system's number
  HugePages huge_pages = HugePages::kProbe;
};

/// What a measured read of both kinds of pages gave.
struct HugePageProbe {
  bool huge_pays = false;
  double small_gb_per_s = 0;
  double huge_gb_per_s = 0;
};

/// Reads 64 MiB in either kind of page, in the pattern of expert weights, several times; takes some 0.1 s.
/// Throws Error when there is no memory for it.
HugePageProbe probe_huge_pages();

struct NodePages {
  int32_t node_os_index = 0;
  int64_t pages = 0;
};

/// Move-only owner of a reservation, and the pieces handed out of it.
class Arena {
 public:
  /// Reserves `bytes` >= 0; pages are taken when they are first written. Throws Error naming the purpose,
  /// bytes needed and bytes available when the machine has no room for them, or the system refuses.
  Arena(int64_t bytes, const ArenaOptions& options);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// The next `bytes`, at a multiple of `alignment` (a power of two, at most 2 MiB). What was reserved must
  /// suffice (asserted).
  std::span<std::byte> allocate(int64_t bytes, int64_t alignment = 64);

  [[nodiscard]] std::span<std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }
  /// Whether the kernel was asked for huge pages, as the options or the probe say.
  [[nodiscard]] bool huge_pages() const { return huge_pages_; }
  /// Empty when pages come from where the policy says; else why they come from anywhere.
  [[nodiscard]] const std::string& not_bound() const { return not_bound_; }

  /// Where the pages written so far are, by ascending node. Throws Error when the system does not say.
  [[nodiscard]] std::vector<NodePages> pages_per_node() const;
  /// Bytes that lie in huge pages now; 0 when the system does not say.
  [[nodiscard]] int64_t huge_page_bytes() const;

 private:
  std::byte* data_ = nullptr;  // 2 MiB-aligned
  int64_t size_ = 0;
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  int64_t used_ = 0;
  bool huge_pages_ = false;
  std::string not_bound_;
};

/// Throws Error naming `purpose` and both numbers when `bytes` are more than available_memory_bytes().
void check_memory(int64_t bytes, const std::string& purpose);

}  // namespace sluice::offload
