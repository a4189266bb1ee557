// Checkpoint to GGUF: everything is found and checked first, then the file is written tensor by tensor.
#include "engine/convert/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <set>
#include <span>

#include "engine/convert/matrix_writer.h"
#include "engine/convert/output_plan.h"
#include "engine/convert/source_tensor.h"
#include "engine/convert/tensor_names.h"
#include "engine/convert/type_choice.h"
#include "engine/model_config.h"
#include "engine/text/tokenizer.h"
#include "offload/workers.h"
#include "quant/base/error.h"
#include "quant/gguf_writer.h"
#include "quant/mapped_file.h"
#include "quant/safetensors_reader.h"

namespace sluice {
namespace {

using convert::MatrixStack;
using convert::RowRange;
using convert::SourceFormat;
using convert::SourceLayout;
using convert::SourceTensor;
using quant::DType;
using quant::Tensor;

/// How a tensor's bytes come about.
enum class Encoding {
  kPlain,        // decoded, encoded
  kScaledNvfp4,  // the same, with a second-level scale of our own
  kRepackNvfp4,  // ModelOpt's codes and scales in another order, nothing lost
};

/// A tensor of the output with what it is made of.
struct Item {
  convert::TensorPlan plan;
  std::vector<SourceTensor> sources;
  Tensor target;
  Encoding encoding = Encoding::kPlain;
  bool has_scale = false;  // followed by a `.scale` tensor
};

ModelConfig read_config(const std::filesystem::path& directory, const std::string& name) {
  const std::filesystem::path path = directory / "config.json";
  const quant::MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  ModelConfig config = config_from_json(text, path.string());
  config.name = name;
  if (name.empty()) {
    config.name = std::filesystem::weakly_canonical(directory).filename().string();
  }
  return config;
}

Encoding choose_encoding(const Item& item) {
  if (item.target.dtype != DType::kNVFP4) {
    return Encoding::kPlain;
  }
  const bool scale_allowed = convert::has_second_scale(item.plan.name);
  const bool rows_kept =
      item.plan.layout == SourceLayout::kWhole || item.plan.layout == SourceLayout::kExpertStack;
  const auto repackable = [&](const SourceTensor& source) {
    return source.format() == SourceFormat::kModelOptNvfp4 &&
           (scale_allowed || source.second_scale() == 1.0F);
  };
  if (rows_kept && std::all_of(item.sources.begin(), item.sources.end(), repackable)) {
    return Encoding::kRepackNvfp4;
  }
  return scale_allowed ? Encoding::kScaledNvfp4 : Encoding::kPlain;
}

/// A companion of ones only is left out.
bool needs_scale(const Item& item) {
  const auto is_one = [](const SourceTensor& source) { return source.second_scale() == 1.0F; };
  return item.encoding == Encoding::kScaledNvfp4 ||
         (item.encoding == Encoding::kRepackNvfp4 &&
          !std::all_of(item.sources.begin(), item.sources.end(), is_one));
}

class Conversion {
 public:
  Conversion(const std::filesystem::path& directory, const ConvertOptions& options)
      : directory_(directory),
        options_(options),
        types_(options),
        config_(read_config(directory, options.name)),
        checkpoint_(quant::SafetensorsCheckpoint::open(directory)) {
    for (convert::TensorPlan& plan : convert::plan_tensors(config_)) {
      if (!plan.optional || checkpoint_.find(plan.sources.front()) != nullptr) {
        items_.push_back(resolve(std::move(plan)));
      }
    }
    types_.check_rules_used();
    list_ignored();
  }

  ConvertReport write(const std::filesystem::path& output) {
    const quant::GgufMetadata metadata = make_metadata();
    const std::vector<Tensor> declared = declare();
    quant::GgufWriter writer(output, metadata, declared);
    convert::ProgressMeter progress(options_.progress, output, declared);
    offload::Workers workers(convert::encoding_threads(options_));
    convert::MatrixWriter matrices(writer, progress, workers);
    for (const Item& item : items_) {
      const std::vector<float> scales = write_item(matrices, item);
      if (item.has_scale) {
        matrices.write_bytes(convert::declare_scale(item.target), std::as_bytes(std::span(scales)));
      }
    }
    writer.finish();
    report_.tensors = static_cast<int64_t>(declared.size());
    report_.bytes = static_cast<int64_t>(std::filesystem::file_size(output));
    return std::move(report_);
  }

 private:
  Item resolve(convert::TensorPlan plan) {
    Item item;
    for (const std::string& name : plan.sources) {
      item.sources.push_back(SourceTensor::find(checkpoint_, directory_.string(), name, plan.source_shape));
      for (std::string& used : item.sources.back().names()) {
        used_.insert(std::move(used));
      }
    }
    const DType dtype =
        types_.choose(plan.name, static_cast<int>(plan.ne.size()), plan.ne.front(), report_.fallbacks);
    item.target = convert::declare_tensor(plan.name, dtype, plan.ne);
    item.plan = std::move(plan);
    item.encoding = choose_encoding(item);
    item.has_scale = needs_scale(item);
    return item;
  }

  void list_ignored() {
    for (const auto& [name, tensor] : checkpoint_.tensors()) {
      if (!used_.contains(name)) {
        report_.ignored.push_back(name);
      }
    }
  }

  quant::GgufMetadata make_metadata() {
    int64_t parameters = 0;
    for (const Item& item : items_) {
      parameters += item.target.elements();
    }
    quant::GgufMetadata metadata(directory_.string());
    config_to_gguf(config_, {convert::file_type_of(options_.dtype), convert::size_label(parameters)},
                   metadata);
    report_.has_tokenizer = std::filesystem::exists(directory_ / "tokenizer.json");
    if (report_.has_tokenizer) {
      const TokenizerData tokenizer = tokenizer_from_directory(directory_, config_.vocab_size);
      if (static_cast<int64_t>(tokenizer.tokens.size()) != config_.vocab_size) {
        throw Error((directory_ / "tokenizer.json").string(),
                    fmt::format("at most the model's {} tokens", config_.vocab_size),
                    fmt::format("{} tokens", tokenizer.tokens.size()));
      }
      tokenizer_to_gguf(tokenizer, metadata);
    }
    return metadata;
  }

  [[nodiscard]] std::vector<Tensor> declare() const {
    std::vector<Tensor> declared;
    for (const Item& item : items_) {
      declared.push_back(item.target);
      if (item.has_scale) {
        declared.push_back(convert::declare_scale(item.target));
      }
    }
    return declared;
  }

  /// Returns the values of the `.scale` companion, when there is one.
  static std::vector<float> write_item(convert::MatrixWriter& writer, const Item& item);

  std::filesystem::path directory_;
  const ConvertOptions& options_;
  convert::TypeChoice types_;
  ModelConfig config_;
  quant::SafetensorsCheckpoint checkpoint_;
  std::vector<Item> items_;
  std::set<std::string, std::less<>> used_;
  ConvertReport report_;
};

/// Rows of kv_b_proj for one head: first the keys' d_nope, then the values' d_value.
struct HeadRows {
  int64_t per_head;
  int64_t keys;
};

HeadRows head_rows(const Item& item) {
  const std::vector<int64_t>& ne = item.plan.ne;
  const int64_t per_head = item.plan.source_shape.front() / ne[2];
  return {per_head, item.plan.layout == SourceLayout::kKeyHeads ? ne[0] : per_head - ne[1]};
}

/// values [d_latent, d_nope] = transposed key rows [d_nope, d_latent] of one head.
void read_key_head(const SourceTensor& source, HeadRows layout, int64_t head, std::span<float> values) {
  const int64_t cols = source.cols();
  std::vector<float> rows(values.size());
  source.read_rows(head * layout.per_head, rows);
  for (int64_t r = 0; r < layout.keys; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      values[static_cast<size_t>(c * layout.keys + r)] = rows[static_cast<size_t>(r * cols + c)];
    }
  }
}

MatrixStack stack_of(const Item& item) {
  const Tensor& target = item.target;
  MatrixStack stack{convert::rows_per_task(target.ne[1], target.ne[0]), {}};
  switch (item.plan.layout) {
    case SourceLayout::kWhole:
    case SourceLayout::kExpertStack:
      stack.read = [&item](const RowRange& range, std::span<float> values) {
        item.sources[static_cast<size_t>(range.slice)].read_rows(range.first_row, values);
      };
      break;
    case SourceLayout::kKeyHeads:
      stack.rows_per_read = target.ne[1];
      stack.read = [&item, layout = head_rows(item)](const RowRange& range, std::span<float> values) {
        read_key_head(item.sources.front(), layout, range.slice, values);
      };
      break;
    case SourceLayout::kValueHeads:
      stack.read = [&item, layout = head_rows(item)](const RowRange& range, std::span<float> values) {
        item.sources.front().read_rows(range.slice * layout.per_head + layout.keys + range.first_row, values);
      };
      break;
  }
  return stack;
}

std::vector<float> repack_nvfp4(convert::MatrixWriter& writer, const Item& item) {
  const Tensor& target = item.target;
  writer.write_blocks(target, convert::rows_per_task(target.ne[1], target.ne[0]),
                      [&item](const RowRange& range, std::span<std::byte> blocks) {
                        item.sources[static_cast<size_t>(range.slice)].repack_rows(range.first_row,
                                                                                   range.rows, blocks);
                      });
  std::vector<float> scales;
  for (const SourceTensor& source : item.sources) {
    scales.push_back(source.second_scale());
  }
  return scales;
}

std::vector<float> Conversion::write_item(convert::MatrixWriter& writer, const Item& item) {
  switch (item.encoding) {
    case Encoding::kPlain:
      writer.write_matrices(item.target, stack_of(item));
      return {};
    case Encoding::kScaledNvfp4:
      return writer.write_scaled_nvfp4(item.target, stack_of(item));
    case Encoding::kRepackNvfp4:
      return repack_nvfp4(writer, item);
  }
  assert(false && "every Encoding is handled");
  return {};
}

}  // namespace

ConvertReport convert_checkpoint(const std::filesystem::path& directory, const std::filesystem::path& output,
                                 const ConvertOptions& options) {
  return Conversion(directory, options).write(output);
}

}  // namespace sluice
