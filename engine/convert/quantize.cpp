// GGUF to GGUF with other types: matrices are decoded and encoded again, all else is copied.
#include <fmt/format.h>

#include <array>
#include <optional>
#include <span>

#include "engine/convert/convert.h"
#include "engine/convert/matrix_writer.h"
#include "engine/convert/output_plan.h"
#include "engine/convert/source_tensor.h"
#include "engine/convert/tensor_names.h"
#include "engine/convert/type_choice.h"
#include "engine/text/tokenizer.h"
#include "offload/workers.h"
#include "quant/base/error.h"
#include "quant/block_codec.h"
#include "quant/gguf_reader.h"
#include "quant/gguf_writer.h"

namespace sluice {
namespace {

using convert::MatrixStack;
using convert::RowRange;
using quant::DType;
using quant::GgufFile;
using quant::Tensor;

constexpr uint32_t kQuantizationVersion = 2;

/// A tensor of the output and the one of the input that it is made of.
struct Item {
  const Tensor* source = nullptr;
  Tensor target;
  std::vector<float> source_scales;  // second-level scales of the source, one per slice; empty = none
  bool copy = false;
  bool new_scale = false;  // a `.scale` of our own follows
};

/// The tensor whose product `name`, a companion ("X.scale", "X.input_scale"), multiplies; null when it is
/// none.
const Tensor* companion_owner(const GgufFile& file, std::string_view name) {
  for (const std::string_view suffix : {".scale", ".input_scale"}) {
    if (name.ends_with(suffix)) {
      return file.find(fmt::format("{}.weight", name.substr(0, name.size() - suffix.size())));
    }
  }
  return nullptr;
}

std::vector<float> read_scales(const GgufFile& file, const Tensor& weight) {
  const Tensor* scale =
      weight.name.ends_with(".weight") ? file.find(convert::scale_name(weight.name)) : nullptr;
  if (scale == nullptr) {
    return {};
  }
  const int64_t slices = weight.ne[2] * weight.ne[3];
  const std::string subject = fmt::format("{}: tensor {}", file.path().string(), scale->name);
  if (scale->dtype != DType::kF32 || scale->elements() != slices) {
    throw Error(
        subject, fmt::format("{} elements of type F32", slices),
        fmt::format("{} of type {}", quant::shape_text(*scale), quant::dtype_info(scale->dtype).name));
  }
  std::vector<float> scales(static_cast<size_t>(slices));
  quant::dequantize_row(DType::kF32, scale->bytes, scales);
  convert::check_finite(subject, scales, 0, slices);
  return scales;
}

/// Shards become one file, whose alignment is the writer's own.
quant::GgufMetadata copy_metadata(const GgufFile& file, DType dtype) {
  quant::GgufMetadata metadata(file.path().string());
  for (const quant::GgufEntry& entry : file.metadata().entries()) {
    if (!entry.key.starts_with("split.") && entry.key != "general.alignment") {
      metadata.set(entry.key, entry.value);
    }
  }
  metadata.set("general.file_type", convert::file_type_of(dtype));
  metadata.set("general.quantization_version", kQuantizationVersion);
  return metadata;
}

class Requantization {
 public:
  Requantization(const std::filesystem::path& input, const ConvertOptions& options)
      : file_(GgufFile::open(input)), options_(options), types_(options) {
    for (const Tensor& tensor : file_.tensors()) {
      if (std::optional<Item> item = plan(tensor)) {
        items_.push_back(std::move(*item));
      }
    }
    types_.check_rules_used();
  }

  ConvertReport write(const std::filesystem::path& output) {
    std::vector<Tensor> declared;
    for (const Item& item : items_) {
      declared.push_back(item.target);
      if (item.new_scale) {
        declared.push_back(convert::declare_scale(item.target));
      }
    }
    quant::GgufMetadata metadata = copy_metadata(file_, options_.dtype);
    if (!options_.name.empty()) {
      metadata.set("general.name", options_.name);
    }
    report_.has_tokenizer = has_tokenizer(metadata);
    quant::GgufWriter writer(output, metadata, declared);
    convert::ProgressMeter progress(options_.progress, output, declared);
    offload::Workers workers(convert::encoding_threads(options_));
    convert::MatrixWriter matrices(writer, progress, workers);
    for (const Item& item : items_) {
      write_item(matrices, item);
    }
    writer.finish();
    report_.tensors = static_cast<int64_t>(declared.size());
    report_.bytes = static_cast<int64_t>(std::filesystem::file_size(output));
    return std::move(report_);
  }

 private:
  [[nodiscard]] DType target_type(const Tensor& tensor, std::vector<std::string>& fallbacks) {
    return convert::may_quantize(tensor.name, tensor.n_dims)
               ? types_.choose(tensor.name, tensor.n_dims, tensor.ne[0], fallbacks)
               : tensor.dtype;
  }

  /// Empty for a companion whose tensor is encoded anew: its values are folded in.
  std::optional<Item> plan(const Tensor& tensor) {
    if (const Tensor* owner = companion_owner(file_, tensor.name)) {
      std::vector<std::string> counted_with_owner;
      if (target_type(*owner, counted_with_owner) != owner->dtype) {
        return std::nullopt;
      }
    }
    Item item;
    item.source = &tensor;
    item.target = tensor;
    item.target.bytes = {};
    item.target.dtype = target_type(tensor, report_.fallbacks);
    item.copy = item.target.dtype == tensor.dtype;
    if (!item.copy) {
      check_decodable(tensor);
      item.source_scales = read_scales(file_, tensor);
      item.new_scale = item.target.dtype == DType::kNVFP4 && convert::has_second_scale(tensor.name);
    }
    return item;
  }

  void check_decodable(const Tensor& tensor) const {
    if (!quant::can_dequantize(tensor.dtype)) {
      throw Error(subject(tensor), "a type that can be decoded", quant::dtype_info(tensor.dtype).name);
    }
  }

  [[nodiscard]] std::string subject(const Tensor& tensor) const {
    return fmt::format("{}: tensor {}", file_.path().string(), tensor.name);
  }

  [[nodiscard]] MatrixStack stack_of(const Item& item) const {
    const Tensor& source = *item.source;
    return {
        convert::rows_per_task(source.ne[1], source.ne[0]),
        [this, &item](const RowRange& range, std::span<float> values) { read_rows(item, range, values); }};
  }

  void read_rows(const Item& item, const RowRange& range, std::span<float> values) const {
    const Tensor& source = *item.source;
    const int64_t row_bytes = quant::row_bytes(source.dtype, source.ne[0]);
    const int64_t first = range.slice * source.ne[1] + range.first_row;
    quant::dequantize_row(source.dtype,
                          source.bytes.subspan(static_cast<size_t>(first * row_bytes),
                                               static_cast<size_t>(range.rows * row_bytes)),
                          values);
    if (!item.source_scales.empty()) {
      for (float& value : values) {
        value *= item.source_scales[static_cast<size_t>(range.slice)];
      }
    }
    convert::check_finite(subject(source), values, first, source.ne[0]);
  }

  void write_item(convert::MatrixWriter& writer, const Item& item) const {
    if (item.copy) {
      writer.write_bytes(item.target, item.source->bytes);
      return;
    }
    if (!item.new_scale) {
      writer.write_matrices(item.target, stack_of(item));
      return;
    }
    const std::vector<float> scales = writer.write_scaled_nvfp4(item.target, stack_of(item));
    writer.write_bytes(convert::declare_scale(item.target), std::as_bytes(std::span(scales)));
  }

  GgufFile file_;
  const ConvertOptions& options_;
  convert::TypeChoice types_;
  std::vector<Item> items_;
  ConvertReport report_;
};

}  // namespace

ConvertReport quantize_gguf(const std::filesystem::path& input, const std::filesystem::path& output,
                            const ConvertOptions& options) {
  return Requantization(input, options).write(output);
}

}  // namespace sluice
