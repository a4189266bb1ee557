// Opens a GGUF file and, when it is the first of a set, the other shards beside it.
#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <functional>
#include <system_error>
#include <utility>

#include "quant/base/error.h"
#include "quant/gguf_layout.h"
#include "quant/gguf_reader.h"

namespace sluice::quant {
namespace {

constexpr std::string_view kShardNumberKey = "split.no";             // u16, from 0; names count from 1
constexpr std::string_view kShardCountKey = "split.count";           // u16
constexpr std::string_view kTensorCountKey = "split.tensors.count";  // i32, over all shards

std::string shard_suffix(int number, int count) {
  return fmt::format("-{:05}-of-{:05}.gguf", number + 1, count);
}

// Empty when the file is whole: files merged from shards keep the key with 0.
int shard_count_of(const GgufMetadata& metadata) {
  return metadata.get_or<uint16_t>(kShardCountKey, 0);
}

template <typename T>
void require_value(const GgufMetadata& metadata, std::string_view key, T expected) {
  const T found = metadata.get<T>(key);
  if (found != expected) {
    throw Error(metadata.subject_of(key), fmt::format("{}", expected), fmt::format("{}", found));
  }
}

// What the shards' names have in common, from the name of the first.
std::string shard_prefix(const std::filesystem::path& path, const GgufMetadata& metadata, int count) {
  const auto number = metadata.get<uint16_t>(kShardNumberKey);
  if (number != 0) {
    throw Error(path.string(), fmt::format("the path of shard 1 of {}", count),
                fmt::format("shard {}", number + 1));
  }
  const std::string name = path.string();
  const std::string suffix = shard_suffix(0, count);
  if (!name.ends_with(suffix)) {
    throw Error(path.string(), fmt::format("a name ending in {}, to find the other shards", suffix),
                "another name");
  }
  return name.substr(0, name.size() - suffix.size());
}

// A link from one shard's name to another's file would load the same tensors twice.
void require_own_file(const std::filesystem::path& path, int number, int count,
                      std::map<std::filesystem::path, std::string>& opened) {
  std::error_code failure;
  const std::filesystem::path target = std::filesystem::canonical(path, failure);
  if (failure) {
    throw Error(path.string(), fmt::format("shard {} of {}", number + 1, count), failure.message());
  }
  const auto [known, added] = opened.emplace(target, path.string());
  if (!added) {
    throw Error(path.string(), fmt::format("shard {} of {} in a file of its own", number + 1, count),
                fmt::format("the file of {}", known->second));
  }
}

}  // namespace

GgufFile GgufFile::open(const std::filesystem::path& path) {
  GgufFile file;
  file.path_ = path;
  const auto add_tensors = [&file](std::vector<Tensor>&& tensors, const std::string& source) {
    for (Tensor& tensor : tensors) {
      if (!file.index_.emplace(tensor.name, file.tensors_.size()).second) {
        throw Error(fmt::format("{}: tensor {}", source, tensor.name), "each tensor in one shard",
                    "a name that an earlier shard holds");
      }
      file.tensors_.push_back(std::move(tensor));
    }
  };
  GgufHeader first = parse_gguf(file.shards_.emplace_back(path).bytes(), path.string());
  file.version_ = first.version;
  file.metadata_ = std::move(first.metadata);
  add_tensors(std::move(first.tensors), path.string());

  const int count = shard_count_of(file.metadata_);
  if (count <= 1) {
    return file;
  }
  const std::string prefix = shard_prefix(path, file.metadata_, count);
  std::map<std::filesystem::path, std::string> opened;
  require_own_file(path, 0, count, opened);
  for (int number = 1; number < count; ++number) {
    const std::string shard_path = prefix + shard_suffix(number, count);
    require_own_file(shard_path, number, count, opened);
    GgufHeader shard = parse_gguf(file.shards_.emplace_back(shard_path).bytes(), shard_path);
    require_value(shard.metadata, kShardNumberKey, static_cast<uint16_t>(number));
    require_value(shard.metadata, kShardCountKey, static_cast<uint16_t>(count));
    add_tensors(std::move(shard.tensors), shard_path);
  }
  require_value(file.metadata_, kTensorCountKey, static_cast<int32_t>(file.tensors_.size()));
  return file;
}

GgufFile GgufFile::in_memory(std::filesystem::path path, GgufMetadata metadata, std::vector<Tensor> tensors,
                             AnonymousMemory memory) {
  GgufFile file;
  file.path_ = std::move(path);
  file.version_ = kGgufVersion;
  file.metadata_ = std::move(metadata);
  file.tensors_ = std::move(tensors);
  file.memory_ = std::move(memory);
  for (size_t i = 0; i < file.tensors_.size(); ++i) {
    const bool is_new = file.index_.emplace(file.tensors_[i].name, i).second;
    assert(is_new);  // the caller's table
    static_cast<void>(is_new);
  }
  return file;
}

const Tensor* GgufFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const std::filesystem::path& GgufFile::path_of(const Tensor& tensor) const {
  const auto holds = [&](const MappedFile& shard) {
    const std::less_equal<> not_after;
    const std::byte* const begin = shard.bytes().data();
    return not_after(begin, tensor.bytes.data()) &&
           not_after(tensor.bytes.data() + tensor.bytes.size(), begin + shard.bytes().size());
  };
  const auto shard = std::ranges::find_if(shards_, holds);
  return shard == shards_.end() ? path_ : shard->path();
}

}  // namespace sluice::quant
