// Byte-pair encoding of one piece of text: adjacent tokens are merged, the best merge first, the leftmost of
// equals, until no merge applies.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace sluice {

class BytePairEncoder {
 public:
  /// What encode works in; one per caller, reused from piece to piece. Empty to begin with.
  struct Workspace {
    struct Symbol {
      int32_t id;  // kMerged when it went into the symbol to its left
      int32_t previous;
      int32_t next;  // index; -1 at the ends
    };
    struct Candidate {
      int32_t rank;
      int32_t at;  // index of the left symbol
      int32_t left;
      int32_t right;
      int32_t merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// `merges` is how many add_merge calls will follow at most.
  explicit BytePairEncoder(int64_t merges);

  void set_byte(uint8_t byte, int32_t id) { byte_ids_[byte] = id; }
  /// Tokens `left` and `right` next to each other become `merged`; the smallest rank comes first. False when
  /// the pair has a merge already.
  bool add_merge(int32_t left, int32_t right, int32_t rank, int32_t merged);

  /// Appends the piece's ids. O(n log n) for n bytes; n is less than 2^31.
  void encode(std::string_view piece, Workspace& workspace, std::vector<int32_t>& ids) const;

 private:
  // Open addressing, at most half full.
  struct Slot {
    int32_t left;
    int32_t right;
    int32_t rank;
    int32_t merged;
  };
  [[nodiscard]] size_t slot_of(int32_t left, int32_t right) const;
  void push_candidate(Workspace& workspace, int32_t at) const;
  void merge(Workspace& workspace, const Workspace::Candidate& best) const;

  std::array<int32_t, 256> byte_ids_{};
  std::vector<Slot> slots_;
};

}  // namespace sluice
