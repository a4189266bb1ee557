// The choices of a pass's tokens, sorted by the experts that compute them. Experts come in groups whose
// weights are at hand together: all of a layer that a GPU has, or those of a slot that was copied there.
// Groups are cut into pieces that a working memory of fixed size holds. On the host; the GPU reads the
// tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quant/base/view.h"

namespace sluice {

/// Experts that meet all of a pass's tokens at once.
struct PassExpertShape {
  int64_t max_tokens = 0;  // of a pass
  int64_t d_model = 0;
  int64_t d_expert = 0;
  int64_t experts = 0;  // of a layer
  int64_t used = 0;     // of them by a token
};

/// Choices that are multiplied together. Chosen: a working memory that does not grow with the pass, and
/// enough for several busy experts.
inline constexpr int64_t kPassChoices = 8192;
/// Of a piece, at most: those, or what a pass has.
int64_t most_choices(const PassExpertShape& shape);

/// Experts, each in one group at most.
using ExpertGroup = std::vector<int32_t>;

/// Parts of one piece of memory, for a layer's choices of n_tokens tokens: on the host, and at the same
/// places on the GPU.
struct PassTables {
  /// `data` aligned to 16 bytes, or null to count.
  PassTables(const PassExpertShape& shape, int64_t n_tokens, std::byte* data);
  int64_t bytes;     // a multiple of 256
  int32_t* tokens;   // [n_tokens * used]: the token of a choice
  int32_t* choices;  // [n_tokens, used]: where a token's choice is among those, or -1
  int32_t* begins;   // of each piece [experts + 1], from its first choice on
  float* scales[3];  // gate, up, down: [experts], in the order of groups
};

class PassChoices {
 public:
  explicit PassChoices(const PassExpertShape& shape);

  /// Choices that go through the products together: of some experts of a group, or a part of one's.
  struct Piece {
    int64_t first_expert = 0;  // in the group
    int64_t experts = 0;
    int64_t first_choice = 0;
    int64_t choices = 0;
    int64_t begins_at = 0;  // in PassTables::begins
  };

  /// ids [n_tokens, used], each in [0, experts). Choices of an expert follow each other, in the order of
  /// tokens, experts in that of groups; those of experts of no group are left out. Fills all of `tables`,
  /// made for so many tokens, but the scales.
  void sort(MatrixView<const int32_t> ids, std::span<const ExpertGroup> groups, const PassTables& tables);

  // Of what was sorted last.
  [[nodiscard]] std::span<const Piece> pieces(size_t group) const { return groups_[group].pieces; }
  /// Where the group's experts begin in the order of groups.
  [[nodiscard]] int64_t first_expert(size_t group) const { return groups_[group].first_expert; }

 private:
  struct Group {
    int64_t first_expert = 0;
    std::vector<Piece> pieces;
  };

  void place(MatrixView<const int32_t> ids, std::span<const ExpertGroup> groups, const PassTables& tables);
  void cut(std::span<const ExpertGroup> groups, const PassTables& tables);

  PassExpertShape shape_;
  std::vector<int64_t> begins_;  // [experts in groups + 1], in the order of groups
  std::vector<int64_t> next_;    // [experts]
  std::vector<Group> groups_;
};

}  // namespace sluice
