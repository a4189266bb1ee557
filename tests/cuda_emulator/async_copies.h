// The asynchronous copies of one thread (cp.async): in groups, finished in order.
#pragma once

#include <cstddef>
#include <vector>

namespace sluice::emulator {

/// When copies happen; a kernel that is right cannot tell.
enum class CopyTime { kAtOnce, kWhenAwaited };

class AsyncCopies {
 public:
  /// Of a new block's thread. What the last one left open is forgotten.
  void begin(CopyTime time);
  /// Copies `bytes` of 16 bytes and fills the rest with zeros. Both stay valid until the copy is awaited.
  void add(std::byte* to, const void* from, int bytes);
  /// Ends a group; it may be empty.
  void commit();
  /// Finishes the oldest groups until `pending` are left.
  void wait(int pending);
  /// Copies that were not awaited.
  [[nodiscard]] size_t open() const { return copies_.size(); }

 private:
  struct Copy {
    std::byte* to;
    const void* from;
    int bytes;
  };
  static void perform(const Copy& copy);

  CopyTime time_ = CopyTime::kAtOnce;
  std::vector<Copy> copies_;    // not awaited, oldest first
  std::vector<size_t> groups_;  // copies of each group that ended, oldest first
  size_t uncommitted_ = 0;      // copies behind the last group
};

}  // namespace sluice::emulator
