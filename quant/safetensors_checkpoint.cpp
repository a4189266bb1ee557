// A file or a directory of shards as one set of tensors. The index is checked against the files, never
// trusted.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "quant/base/error.h"
#include "quant/base/in_quotes.h"
#include "quant/checked_json.h"
#include "quant/safetensors_reader.h"

namespace sluice::quant {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kExtension = ".safetensors";
constexpr std::string_view kIndexName = "model.safetensors.index.json";

// Every *.safetensors of a directory, sorted; or the one file itself.
std::vector<fs::path> checkpoint_files(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return {path};
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == kExtension) files.push_back(entry->path());
  }
  if (error) throw Error(path.string(), "a readable directory", error.message());
  if (files.empty()) throw Error(path.string(), "a .safetensors file in this directory", "none");
  std::sort(files.begin(), files.end());
  return files;
}

using Placement = std::map<std::string, std::string, std::less<>>;  // tensor name to file name

void check_index(const fs::path& directory, const std::vector<fs::path>& files, const Placement& placement) {
  const MappedFile file(directory / kIndexName);
  const std::string source = (directory / kIndexName).string();
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() > kLargestJson) {
    throw Error(source, fmt::format("at most {} bytes", kLargestJson), fmt::format("{}", bytes.size()));
  }
  const Json index = parse_json_object({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, source);
  const Json& weight_map = member(index, "weight_map", source);
  if (!weight_map.is_object()) throw Error(source, "an object weight_map", described(weight_map));
  std::set<std::string> present;
  for (const fs::path& path : files) present.insert(path.filename().string());
  for (const auto& [name, value] : weight_map.items()) {
    const std::string subject = fmt::format("{}: tensor {}", source, in_quotes(name));
    // Only names of this directory's own files are in `present`: "../x" or "/x" names none of them.
    if (!value.is_string() || !present.contains(value.get_ref<const std::string&>())) {
      throw Error(subject, "the name of a .safetensors file in the same directory", described(value));
    }
    const auto& expected = value.get_ref<const std::string&>();
    const auto found = placement.find(name);
    if (found == placement.end()) throw Error(subject, "it in " + expected, "it in no file");
    if (found->second != expected) throw Error(subject, "it in " + expected, "it in " + found->second);
  }
}

}  // namespace

SafetensorsCheckpoint SafetensorsCheckpoint::open(const fs::path& path) {
  SafetensorsCheckpoint checkpoint;
  const std::vector<fs::path> files = checkpoint_files(path);
  Placement placement;
  for (const fs::path& file : files) {
    const MappedFile& mapped = checkpoint.files_.emplace_back(file);
    for (SafetensorsTensor& tensor : parse_safetensors(mapped.bytes(), file.string())) {
      const auto [other, is_new] = placement.emplace(tensor.name, file.filename().string());
      if (!is_new) {
        throw Error(file.string(), "tensors that no other file holds",
                    fmt::format("{}, which {} holds too", in_quotes(tensor.name), other->second));
      }
      std::string name = tensor.name;
      checkpoint.tensors_.emplace(std::move(name), std::move(tensor));
    }
  }
  std::error_code error;
  if (fs::is_directory(path, error) && fs::exists(path / kIndexName, error)) {
    check_index(path, files, placement);
  }
  return checkpoint;
}

const SafetensorsTensor* SafetensorsCheckpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace sluice::quant
