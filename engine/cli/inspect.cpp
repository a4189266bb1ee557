// Metadata, tensor table and totals of a GGUF file, as text or JSON.
#include "engine/cli/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "engine/synth/open_model.h"
#include "quant/dtype.h"
#include "quant/gguf_reader.h"

namespace sluice::cli {
namespace {

using nlohmann::ordered_json;
using quant::GgufArray;
using quant::GgufFile;
using quant::GgufValue;
using quant::Tensor;

constexpr size_t kFewElements = 6;      // of an array in the text
constexpr size_t kManyElements = 64;    // an array longer than this is summarised in JSON unless --full
constexpr size_t kTextCharacters = 72;  // of a string in the text

struct InspectOptions {
  std::string file;
  bool json = false;
  bool full = false;
};

/// Control characters escaped, so that one value stays on one line; cut at a character's end.
std::string one_line(const std::string& text) {
  constexpr auto kReplace = ordered_json::error_handler_t::replace;  // bytes that are no UTF-8
  if (text.size() <= kTextCharacters) {
    return ordered_json(text).dump(-1, ' ', false, kReplace);
  }
  size_t end = kTextCharacters;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
    --end;
  }
  return fmt::format("{}... ({} bytes)", ordered_json(text.substr(0, end)).dump(-1, ' ', false, kReplace),
                     text.size());
}

/// A name for a table: as one_line, without the quotes.
std::string plain(const std::string& name) {
  const std::string quoted = one_line(name);
  return name.size() <= kTextCharacters ? quoted.substr(1, quoted.size() - 2) : quoted;
}

template <typename T>
std::string element_text(const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    return one_line(value);
  } else if constexpr (std::is_same_v<T, int8_t> || std::is_same_v<T, uint8_t>) {
    return std::to_string(static_cast<int>(value));  // not a character
  } else {
    return fmt::format("{}", value);
  }
}

/// The first elements as {text, ...}.
template <typename T>
std::string array_text(const std::vector<T>& values) {
  std::string text = "[";
  for (size_t i = 0; i < std::min(values.size(), kFewElements); ++i) {
    const auto& value = values[i];  // an object of its own where T is bool
    text += (i == 0 ? "" : ", ") + element_text(value);
  }
  return values.size() > kFewElements ? fmt::format("{}, ...] ({} elements)", text, values.size())
                                      : text + "]";
}

std::string value_text(const GgufValue& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        if constexpr (std::is_same_v<std::decay_t<decltype(held)>, GgufArray>) {
          return std::visit([](const auto& values) { return array_text(values); }, held);
        } else {
          return element_text(held);
        }
      },
      value);
}

ordered_json array_json(const GgufArray& array, bool full) {
  return std::visit(
      [full](const auto& values) -> ordered_json {
        if (full || values.size() <= kManyElements) {
          return values;
        }
        using Values = std::decay_t<decltype(values)>;
        return {{"count", values.size()}, {"first", Values(values.begin(), values.begin() + kFewElements)}};
      },
      array);
}

ordered_json value_json(const GgufValue& value, bool full) {
  return std::visit(
      [full](const auto& held) -> ordered_json {
        if constexpr (std::is_same_v<std::decay_t<decltype(held)>, GgufArray>) {
          return array_json(held, full);
        } else {
          return held;
        }
      },
      value);
}

struct Totals {
  int64_t tensors = 0;
  int64_t elements = 0;
  int64_t bytes = 0;

  void add(const Tensor& tensor) {
    tensors += 1;
    elements += tensor.elements();
    bytes += tensor.data_bytes();
  }
  [[nodiscard]] double bits_per_weight() const {
    return elements == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(elements);
  }
};

/// What a reader asks of the file as a whole.
struct Summary {
  std::string architecture;
  Totals all;
  std::map<quant::DType, Totals> by_type;
  int64_t indexer_layers = 0;  // layers with indexer tensors: sparse attention is possible
  int64_t index_top_k = 0;     // 0 when the file says nothing of it
  bool tokenizer = false;
};

Summary summarise(const GgufFile& file) {
  Summary summary;
  summary.architecture = file.metadata().get_or<std::string>("general.architecture", "");
  summary.index_top_k = file.metadata().get_count_or(summary.architecture + ".attention.indexer.top_k", 0);
  summary.tokenizer = file.metadata().find("tokenizer.ggml.tokens") != nullptr;
  for (const Tensor& tensor : file.tensors()) {
    summary.all.add(tensor);
    summary.by_type[tensor.dtype].add(tensor);
    summary.indexer_layers += tensor.name.ends_with(".indexer.attn_q_b.weight") ? 1 : 0;
  }
  return summary;
}

std::string attention_text(const Summary& summary) {
  if (summary.indexer_layers == 0) {
    return "dense only (no indexer)";
  }
  return fmt::format("sparse (indexer in {} layers, top {}) or dense", summary.indexer_layers,
                     summary.index_top_k);
}

void print_text(const GgufFile& file, const Summary& summary) {
  fmt::print("{}: GGUF version {}, {} shard(s)\n\nmetadata ({})\n", file.path().string(), file.version(),
             file.shard_count(), file.metadata().entries().size());
  for (const quant::GgufEntry& entry : file.metadata().entries()) {
    fmt::print("  {:<48} {:<7} {}\n", plain(entry.key), gguf_type_name(quant::gguf_type_of(entry.value)),
               value_text(entry.value));
  }
  fmt::print("\ntensors ({})\n  {:<44} {:<24} {:<6} {:>16}\n", summary.all.tensors, "name", "shape", "type",
             "bytes");
  for (const Tensor& tensor : file.tensors()) {
    fmt::print("  {:<44} {:<24} {:<6} {:>16}\n", plain(tensor.name), quant::shape_text(tensor),
               quant::dtype_info(tensor.dtype).name, tensor.data_bytes());
  }
  fmt::print("\ntotals\n");
  for (const auto& [dtype, totals] : summary.by_type) {
    fmt::print("  {:<6} {:>5} tensors {:>16} elements {:>16} bytes\n", quant::dtype_info(dtype).name,
               totals.tensors, totals.elements, totals.bytes);
  }
  fmt::print("  {:<6} {:>5} tensors {:>16} elements {:>16} bytes, {:.2f} bits per weight\n", "all",
             summary.all.tensors, summary.all.elements, summary.all.bytes, summary.all.bits_per_weight());
  fmt::print("\narchitecture {}\nattention    {}\ntokenizer    {}\n",
             summary.architecture.empty() ? "not named" : plain(summary.architecture),
             attention_text(summary), summary.tokenizer ? "yes" : "none");
}

ordered_json totals_json(const Totals& totals) {
  return {{"tensors", totals.tensors}, {"elements", totals.elements}, {"bytes", totals.bytes}};
}

void print_json(const GgufFile& file, const Summary& summary, bool full) {
  ordered_json json;
  json["file"] = file.path().string();
  json["version"] = file.version();
  json["shards"] = file.shard_count();
  json["architecture"] = summary.architecture;
  json["sparse_attention"] = summary.indexer_layers > 0;
  json["indexer_layers"] = summary.indexer_layers;
  json["tokenizer"] = summary.tokenizer;
  json["metadata"] = ordered_json::object();
  for (const quant::GgufEntry& entry : file.metadata().entries()) {
    json["metadata"][entry.key] = value_json(entry.value, full);
  }
  json["tensors"] = ordered_json::array();
  for (const Tensor& tensor : file.tensors()) {
    const std::vector<int64_t> shape(tensor.ne.begin(), tensor.ne.begin() + tensor.n_dims);
    json["tensors"].push_back({{"name", tensor.name},
                               {"shape", shape},
                               {"type", quant::dtype_info(tensor.dtype).name},
                               {"bytes", tensor.data_bytes()}});
  }
  json["totals"] = ordered_json::object();
  for (const auto& [dtype, totals] : summary.by_type) {
    json["totals"][std::string(quant::dtype_info(dtype).name)] = totals_json(totals);
  }
  json["totals"]["all"] = totals_json(summary.all);
  fmt::print("{}\n", json.dump(2, ' ', false, ordered_json::error_handler_t::replace));
}

void inspect(const InspectOptions& options) {
  const GgufFile file = synth::is_model_spec(options.file)
                            ? synth::declare_model(synth::parse_model_spec(options.file))
                            : GgufFile::open(options.file);
  const Summary summary = summarise(file);
  if (options.json) {
    print_json(file, summary, options.full);
  } else {
    print_text(file, summary);
  }
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "Show a model file's metadata and tensors");
  // Shared because CLI11 copies callbacks.
  const auto options = std::make_shared<InspectOptions>();
  command->add_option("FILE", options->file, "GGUF file, the first of its shards, or synth:...")->required();
  command->add_flag("--json", options->json, "JSON; arrays longer than 64 as count and first elements");
  command->add_flag("--full", options->full, "with --json: long arrays in full");
  command->footer("Example: sluice inspect model.gguf --json");
  command->callback([options] { inspect(*options); });
}

}  // namespace sluice::cli
