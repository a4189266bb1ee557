// A heap of candidate merges over a linked list of symbols. A merge leaves stale candidates behind; they are
// known by their ids, because a symbol never gets an id back that it once had.
#include "engine/text/byte_pair.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace sluice {
namespace {

constexpr int32_t kFree = -1;
constexpr int32_t kMerged = -1;
constexpr int32_t kNone = -1;

// std::push_heap keeps the largest in front: "larger" is the merge that comes later.
bool comes_later(const BytePairEncoder::Workspace::Candidate& a,
                 const BytePairEncoder::Workspace::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
}

size_t index(int32_t i) {
  return static_cast<size_t>(i);
}

}  // namespace

BytePairEncoder::BytePairEncoder(int64_t merges)
    : slots_(std::bit_ceil(2 * static_cast<size_t>(merges) + 1), Slot{kFree, kFree, 0, 0}) {}

size_t BytePairEncoder::slot_of(int32_t left, int32_t right) const {
  const size_t mask = slots_.size() - 1;
  const uint64_t key = (uint64_t{static_cast<uint32_t>(left)} << 32U) | static_cast<uint32_t>(right);
  // Multiplicative hashing with 2^64 divided by the golden ratio; the high bits are the mixed ones.
  size_t at = static_cast<size_t>((key * 0x9E3779B97F4A7C15U) >> 32U) & mask;
  while (slots_[at].left != kFree && (slots_[at].left != left || slots_[at].right != right)) {
    at = (at + 1) & mask;
  }
  return at;
}

bool BytePairEncoder::add_merge(int32_t left, int32_t right, int32_t rank, int32_t merged) {
  Slot& slot = slots_[slot_of(left, right)];
  if (slot.left != kFree) return false;
  slot = {left, right, rank, merged};
  return true;
}

void BytePairEncoder::push_candidate(Workspace& workspace, int32_t at) const {
  const Workspace::Symbol& symbol = workspace.symbols[index(at)];
  if (symbol.next == kNone) return;
  const int32_t right = workspace.symbols[index(symbol.next)].id;
  const Slot& slot = slots_[slot_of(symbol.id, right)];
  if (slot.left != kFree) workspace.heap.push_back({slot.rank, at, symbol.id, right, slot.merged});
}

void BytePairEncoder::merge(Workspace& workspace, const Workspace::Candidate& best) const {
  std::vector<Workspace::Symbol>& symbols = workspace.symbols;
  Workspace::Symbol& left = symbols[index(best.at)];
  if (left.id != best.left || left.next == kNone) return;
  Workspace::Symbol& right = symbols[index(left.next)];
  if (right.id != best.right) return;
  left.id = best.merged;
  left.next = right.next;
  right.id = kMerged;
  if (left.next != kNone) symbols[index(left.next)].previous = best.at;
  for (const int32_t at : {left.previous, best.at}) {
    if (at == kNone) continue;
    const size_t before = workspace.heap.size();
    push_candidate(workspace, at);
    if (workspace.heap.size() > before) {
      std::push_heap(workspace.heap.begin(), workspace.heap.end(), comes_later);
    }
  }
}

void BytePairEncoder::encode(std::string_view piece, Workspace& workspace, std::vector<int32_t>& ids) const {
  assert(piece.size() < size_t{1} << 31U);  // the caller splits nothing longer
  if (piece.empty()) return;
  std::vector<Workspace::Symbol>& symbols = workspace.symbols;
  symbols.clear();
  for (const char c : piece) {
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({byte_ids_[static_cast<uint8_t>(c)], at - 1, at + 1});
  }
  symbols.back().next = kNone;
  workspace.heap.clear();
  for (int32_t at = 0; index(at) < symbols.size(); ++at) push_candidate(workspace, at);
  std::make_heap(workspace.heap.begin(), workspace.heap.end(), comes_later);
  while (!workspace.heap.empty()) {
    std::pop_heap(workspace.heap.begin(), workspace.heap.end(), comes_later);
    const Workspace::Candidate best = workspace.heap.back();
    workspace.heap.pop_back();
    merge(workspace, best);
  }
  for (int32_t at = 0; at != kNone; at = symbols[index(at)].next) ids.push_back(symbols[index(at)].id);
}

}  // namespace sluice
