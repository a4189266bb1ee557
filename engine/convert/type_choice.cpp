// Types by rule, and the fallbacks for short rows.
#include "engine/convert/type_choice.h"

#include <fmt/format.h>

#include <cassert>
#include <utility>

#include "engine/convert/tensor_names.h"
#include "quant/base/error.h"
#include "quant/block_codec.h"

namespace sluice::convert {
namespace {

using quant::DType;

std::string encodable_names() {
  std::string names;
  for (const quant::DTypeInfo& info : quant::all_dtypes()) {
    if (quant::can_quantize(info.dtype)) {
      names += names.empty() ? "" : ", ";
      names += info.name;
    }
  }
  return names;
}

void check_encodable(const std::string& flag, DType dtype) {
  if (!quant::can_quantize(dtype)) {
    throw Error(flag, fmt::format("a type that can be written: {}", encodable_names()),
                quant::dtype_info(dtype).name);
  }
}

std::regex compile(const std::string& flag, const std::string& pattern) {
  try {
    return std::regex(pattern, std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error& error) {
    throw Error(flag, "a regular expression", error.what());
  }
}

bool divides(DType dtype, int64_t cols) {
  return cols % quant::dtype_info(dtype).elements_per_block == 0;
}

DType fitting_type(DType wanted, int64_t cols) {
  for (const DType dtype : {wanted, DType::kQ8_0}) {
    if (divides(dtype, cols)) {
      return dtype;
    }
  }
  return DType::kBF16;
}

}  // namespace

uint32_t file_type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ8_0:
      return 7;
    case DType::kQ4_K:
      return 15;
    case DType::kQ6_K:
      return 18;
    case DType::kBF16:
      return 32;
    case DType::kMXFP4:
      return 38;
    case DType::kNVFP4:
      return 39;
    default:
      assert(false && "TypeChoice has refused types that cannot be encoded");
      return 0;
  }
}

TypeChoice::TypeChoice(const ConvertOptions& options) : dtype_(options.dtype) {
  check_encodable("--type", dtype_);
  for (const TypeRule& rule : options.rules) {
    const std::string flag =
        fmt::format("--tensor-type {}={}", rule.pattern, quant::dtype_info(rule.dtype).name);
    check_encodable(flag, rule.dtype);
    rules_.push_back({rule.pattern, compile(flag, rule.pattern), rule.dtype});
  }
}

DType TypeChoice::choose(std::string_view name, int n_dims, int64_t cols,
                         std::vector<std::string>& fallbacks) {
  if (!may_quantize(name, n_dims)) {
    return DType::kF32;
  }
  DType wanted = dtype_;
  bool decided = false;
  for (Rule& rule : rules_) {
    if (std::regex_search(name.begin(), name.end(), rule.regex)) {
      rule.used = true;
      wanted = decided ? wanted : rule.dtype;
      decided = true;
    }
  }
  const DType fitting = fitting_type(wanted, cols);
  if (fitting != wanted) {
    fallbacks.push_back(fmt::format("{}: {} wanted, {} written ({} columns)", name,
                                    quant::dtype_info(wanted).name, quant::dtype_info(fitting).name, cols));
  }
  return fitting;
}

void TypeChoice::check_rules_used() const {
  for (const Rule& rule : rules_) {
    if (!rule.used) {
      throw Error(fmt::format("--tensor-type {}={}", rule.pattern, quant::dtype_info(rule.dtype).name),
                  "a pattern that matches the name of a tensor that may be quantized", "no match");
    }
  }
}

}  // namespace sluice::convert
