// The table behind dtype.h.
#include "quant/dtype.h"

#include <algorithm>
#include <array>
#include <cassert>

namespace sluice::quant {
namespace {

constexpr std::array kInfos{
    DTypeInfo{DType::kF32, "F32", 1, 4},       DTypeInfo{DType::kF16, "F16", 1, 2},
    DTypeInfo{DType::kQ4_0, "Q4_0", 32, 18},   DTypeInfo{DType::kQ5_0, "Q5_0", 32, 22},
    DTypeInfo{DType::kQ8_0, "Q8_0", 32, 34},   DTypeInfo{DType::kQ4_K, "Q4_K", 256, 144},
    DTypeInfo{DType::kQ5_K, "Q5_K", 256, 176}, DTypeInfo{DType::kQ6_K, "Q6_K", 256, 210},
    DTypeInfo{DType::kI8, "I8", 1, 1},         DTypeInfo{DType::kI16, "I16", 1, 2},
    DTypeInfo{DType::kI32, "I32", 1, 4},       DTypeInfo{DType::kI64, "I64", 1, 8},
    DTypeInfo{DType::kF64, "F64", 1, 8},       DTypeInfo{DType::kBF16, "BF16", 1, 2},
    DTypeInfo{DType::kMXFP4, "MXFP4", 32, 17}, DTypeInfo{DType::kNVFP4, "NVFP4", 64, 36},
};

constexpr int kUnknown = -1;

// Position in kInfos by id; kUnknown where the project knows no type of that id.
constexpr std::array<int, kDTypeIdCount> make_positions() {
  std::array<int, kDTypeIdCount> positions{};
  positions.fill(kUnknown);
  for (size_t i = 0; i < kInfos.size(); ++i) {
    positions[static_cast<size_t>(kInfos[i].dtype)] = static_cast<int>(i);
  }
  return positions;
}

constexpr std::array<int, kDTypeIdCount> kPositions = make_positions();

constexpr char upper(char c) {
  return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
}

}  // namespace

std::span<const DTypeInfo> all_dtypes() {
  return kInfos;
}

const DTypeInfo& dtype_info(DType dtype) {
  const auto id = static_cast<size_t>(dtype);
  assert(id < kPositions.size() && kPositions[id] != kUnknown);
  return kInfos[static_cast<size_t>(kPositions[id])];
}

std::optional<DType> dtype_from_id(uint32_t id) {
  if (id >= kPositions.size() || kPositions[id] == kUnknown) {
    return std::nullopt;
  }
  return static_cast<DType>(id);
}

std::optional<DType> dtype_from_name(std::string_view name) {
  const auto same = [name](const DTypeInfo& info) {
    return std::equal(name.begin(), name.end(), info.name.begin(), info.name.end(),
                      [](char a, char b) { return upper(a) == b; });
  };
  const auto found = std::find_if(kInfos.begin(), kInfos.end(), same);
  return found == kInfos.end() ? std::nullopt : std::optional(found->dtype);
}

int64_t row_bytes(DType dtype, int64_t elements) {
  const DTypeInfo& info = dtype_info(dtype);
  assert(elements >= 0 && elements % info.elements_per_block == 0);
  return elements / info.elements_per_block * info.bytes_per_block;
}

}  // namespace sluice::quant
