#include "quant/panel.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "quant/base/error.h"
#include "quant/mxfp4.h"
#include "quant/nvfp4.h"
#include "quant/q4_0.h"
#include "quant/q4_k.h"
#include "quant/q5_0.h"
#include "quant/q5_k.h"
#include "quant/q6_k.h"
#include "quant/q8_0.h"

namespace sluice::quant {
namespace {

enum class Section { kQuants, kScales };

/// Consecutive words of a block.
struct Field {
  Section section = Section::kQuants;
  int64_t offset = 0;  // in the block
  int64_t words = 0;   // 0 ends the list
  int64_t word_bytes = 4;
};

struct BlockFields {
  int64_t cols = 1;   // of a block
  int64_t bytes = 0;  // of a block
  std::array<Field, 4> fields{};
};

template <class Block>
constexpr BlockFields fields_of(std::array<Field, 4> fields) {
  return {.cols = Block::kElements, .bytes = sizeof(Block), .fields = fields};
}

constexpr Field quants(size_t offset, size_t bytes) {
  return {Section::kQuants, static_cast<int64_t>(offset), static_cast<int64_t>(bytes) / 4, 4};
}
constexpr Field scales(size_t offset, int64_t words, int64_t word_bytes) {
  return {Section::kScales, static_cast<int64_t>(offset), words, word_bytes};
}

BlockFields block_fields(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {.cols = 1, .bytes = 4, .fields = {quants(0, 4)}};
    case DType::kBF16:  // pairs of columns: one half each of a 4-byte word
      return {.cols = 2, .bytes = 4, .fields = {quants(0, 4)}};
    case DType::kF16:  // single columns: sixteen halves widen in one instruction
      return {.cols = 1, .bytes = 2, .fields = {Field{Section::kQuants, 0, 1, 2}}};
    case DType::kQ8_0:
      return fields_of<BlockQ8_0>({quants(offsetof(BlockQ8_0, q), 32), scales(offsetof(BlockQ8_0, d), 1, 2)});
    case DType::kQ4_0:
      return fields_of<BlockQ4_0>(
          {quants(offsetof(BlockQ4_0, qs), 16), scales(offsetof(BlockQ4_0, d), 1, 2)});
    case DType::kQ5_0:
      return fields_of<BlockQ5_0>({quants(offsetof(BlockQ5_0, qh), 4), quants(offsetof(BlockQ5_0, qs), 16),
                                   scales(offsetof(BlockQ5_0, d), 1, 2)});
    case DType::kMXFP4:
      return fields_of<BlockMXFP4>(
          {quants(offsetof(BlockMXFP4, qs), 16), scales(offsetof(BlockMXFP4, e), 1, 1)});
    case DType::kNVFP4:
      return fields_of<BlockNVFP4>(
          {quants(offsetof(BlockNVFP4, qs), 32), scales(offsetof(BlockNVFP4, d), 4, 1)});
    case DType::kQ4_K:
      return fields_of<BlockQ4_K>({quants(offsetof(BlockQ4_K, qs), 128), scales(offsetof(BlockQ4_K, d), 2, 2),
                                   scales(offsetof(BlockQ4_K, scales), 3, 4)});
    case DType::kQ5_K:
      return fields_of<BlockQ5_K>({quants(offsetof(BlockQ5_K, qh), 32), quants(offsetof(BlockQ5_K, qs), 128),
                                   scales(offsetof(BlockQ5_K, d), 2, 2),
                                   scales(offsetof(BlockQ5_K, scales), 3, 4)});
    case DType::kQ6_K:
      return fields_of<BlockQ6_K>({quants(offsetof(BlockQ6_K, ql), 128), quants(offsetof(BlockQ6_K, qh), 64),
                                   scales(offsetof(BlockQ6_K, scales), 16, 1),
                                   scales(offsetof(BlockQ6_K, d), 1, 2)});
    default:
      throw Error("panel layout", "a weight type", std::string(dtype_info(dtype).name));
  }
}

int64_t section_bytes(const BlockFields& block, Section section) {
  int64_t bytes = 0;
  for (const Field& field : block.fields) {
    bytes += field.section == section ? field.words * field.word_bytes * kPanelRows : 0;
  }
  return bytes;
}

constexpr int64_t aligned(int64_t bytes) {
  return (bytes + kPanelAlignment - 1) / kPanelAlignment * kPanelAlignment;
}

// The two directions differ in which side is read. Constant sizes, so that a word is one move.
template <size_t kBytes>
void interleave(const std::byte* rows, int64_t row_bytes, int64_t count, std::byte* word) {
  for (int64_t r = 0; r < count; ++r) {
    std::memcpy(word + static_cast<size_t>(r) * kBytes, rows + r * row_bytes, kBytes);
  }
}
template <size_t kBytes>
void separate(const std::byte* word, int64_t row_bytes, int64_t count, std::byte* rows) {
  for (int64_t r = 0; r < count; ++r) {
    std::memcpy(rows + r * row_bytes, word + static_cast<size_t>(r) * kBytes, kBytes);
  }
}

/// Calls visit(offset of the word in a row, offset of the word in the panel, bytes of the word) for every
/// word.
template <class Visit>
void for_each_word(const PanelLayout& layout, const BlockFields& block, Visit&& visit) {
  for (int64_t b = 0; b < layout.blocks; ++b) {
    int64_t quant_at = b * layout.quant_bytes;
    int64_t scale_at = layout.scales_at + b * layout.scale_bytes;
    for (const Field& field : block.fields) {
      int64_t& at = field.section == Section::kQuants ? quant_at : scale_at;
      for (int64_t w = 0; w < field.words; ++w) {
        visit(b * block.bytes + field.offset + w * field.word_bytes, at, field.word_bytes);
        at += field.word_bytes * kPanelRows;
      }
    }
  }
}

}  // namespace

PanelLayout panel_layout(DType dtype, int64_t cols) {
  assert(cols >= 0 && cols % dtype_info(dtype).elements_per_block == 0);
  const BlockFields block = block_fields(dtype);
  PanelLayout layout{.dtype = dtype, .cols = cols, .block_cols = block.cols};
  layout.blocks = (cols + block.cols - 1) / block.cols;
  layout.quant_bytes = section_bytes(block, Section::kQuants);
  layout.scale_bytes = section_bytes(block, Section::kScales);
  layout.scales_at = aligned(layout.blocks * layout.quant_bytes);
  layout.panel_bytes = aligned(layout.scales_at + layout.blocks * layout.scale_bytes);
  return layout;
}

PanelView PanelView::panels_from(int64_t begin, int64_t count) const {
  assert(begin >= 0 && count >= 0 && begin + count <= panels());
  return {.layout = layout,
          .data = data + begin * layout.panel_bytes,
          .rows = std::min(rows - begin * kPanelRows, count * kPanelRows),
          .scale = scale};
}

void pack_panel(const PanelLayout& layout, const WeightView& rows, std::span<std::byte> panel) {
  assert(rows.dtype == layout.dtype && rows.cols == layout.cols && rows.rows <= kPanelRows);
  assert(static_cast<int64_t>(panel.size()) == layout.panel_bytes);
  const BlockFields block = block_fields(layout.dtype);
  const int64_t used = row_bytes(layout.dtype, layout.cols);
  if (rows.rows < kPanelRows || used < layout.blocks * block.bytes) {
    std::ranges::fill(panel, std::byte{0});
  } else {  // only the gaps before and after the scales
    std::fill(panel.begin() + layout.blocks * layout.quant_bytes, panel.begin() + layout.scales_at,
              std::byte{0});
    std::fill(panel.begin() + layout.scales_at + layout.blocks * layout.scale_bytes, panel.end(),
              std::byte{0});
  }
  for_each_word(layout, block, [&](int64_t in_row, int64_t in_panel, int64_t bytes) {
    const std::byte* from = rows.data + in_row;
    std::byte* to = panel.data() + in_panel;
    if (bytes == 4 && in_row + 4 <= used) {
      interleave<4>(from, rows.row_bytes, rows.rows, to);
    } else if (bytes == 4) {  // the last pair of an odd row: its second half stays zero
      for (int64_t r = 0; r < rows.rows; ++r) {
        std::memcpy(to + 4 * r, from + r * rows.row_bytes, 2);
      }
    } else if (bytes == 2) {
      interleave<2>(from, rows.row_bytes, rows.rows, to);
    } else {
      interleave<1>(from, rows.row_bytes, rows.rows, to);
    }
  });
}

void unpack_panel(const PanelLayout& layout, std::span<const std::byte> panel, int64_t count,
                  std::span<std::byte> rows) {
  assert(static_cast<int64_t>(panel.size()) == layout.panel_bytes && count <= kPanelRows);
  const int64_t used = row_bytes(layout.dtype, layout.cols);
  assert(static_cast<int64_t>(rows.size()) == count * used);
  for_each_word(layout, block_fields(layout.dtype), [&](int64_t in_row, int64_t in_panel, int64_t bytes) {
    const std::byte* from = panel.data() + in_panel;
    std::byte* to = rows.data() + in_row;
    if (bytes == 4 && in_row + 4 <= used) {
      separate<4>(from, used, count, to);
    } else if (bytes == 4) {
      for (int64_t r = 0; r < count; ++r) {
        std::memcpy(to + r * used, from + 4 * r, 2);
      }
    } else if (bytes == 2) {
      separate<2>(from, used, count, to);
    } else {
      separate<1>(from, used, count, to);
    }
  });
}

}  // namespace sluice::quant
