// Lays out a GGUF v3 header and streams tensor data behind it.
#include "quant/gguf_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <set>
#include <type_traits>
#include <utility>

#include "quant/base/error.h"
#include "quant/gguf_layout.h"

namespace sluice::quant {
namespace {

static_assert(std::endian::native == std::endian::little, "values are written as they lie in memory");

template <typename T>
void append(std::string& out, T value) {
  if constexpr (std::is_same_v<T, bool>) {
    out.push_back(value ? '\1' : '\0');
  } else {
    static_assert(std::is_arithmetic_v<T>);
    out.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
}

void append(std::string& out, const std::string& text) {
  append(out, uint64_t{text.size()});
  out += text;
}

void append(std::string& out, const GgufArray& array) {
  append(out, static_cast<uint32_t>(gguf_element_type_of(array)));
  const auto append_elements = [&out](const auto& elements) {
    using T = typename std::decay_t<decltype(elements)>::value_type;
    append(out, uint64_t{elements.size()});
    for (const T& element : elements) {
      append(out, element);
    }
  };
  std::visit(append_elements, array);
}

void append_entry(std::string& out, const GgufEntry& entry, const std::string& source) {
  if (entry.key.empty()) {
    throw Error(source, "a key for every value", "an empty one");
  }
  append(out, entry.key);
  append(out, static_cast<uint32_t>(gguf_type_of(entry.value)));
  std::visit([&out](const auto& value) { append(out, value); }, entry.value);
}

std::string subject_of(const std::string& source, const Tensor& tensor) {
  return fmt::format("{}: tensor {}", source, tensor.name);
}

int64_t tensor_bytes(const Tensor& tensor) {
  return row_bytes(tensor.dtype, tensor.elements());
}

void require_names(const std::vector<Tensor>& tensors, const std::string& source) {
  std::set<std::string_view> names;
  for (const Tensor& tensor : tensors) {
    if (tensor.name.size() > kGgufMaxNameBytes) {
      throw Error(subject_of(source, tensor), fmt::format("a name of at most {} bytes", kGgufMaxNameBytes),
                  fmt::format("{}", tensor.name.size()));
    }
    if (!names.insert(tensor.name).second) {
      throw Error(subject_of(source, tensor), "each tensor once", "a second one");
    }
  }
}

void append_tensor(std::string& out, const Tensor& tensor, int64_t offset) {
  append(out, tensor.name);
  append(out, static_cast<uint32_t>(tensor.n_dims));
  // Dimensions that are not stored must be 1.
  assert(std::all_of(tensor.ne.begin() + tensor.n_dims, tensor.ne.end(), [](int64_t ne) { return ne == 1; }));
  for (size_t i = 0; i < static_cast<size_t>(tensor.n_dims); ++i) {
    append(out, tensor.ne[i]);
  }
  append(out, static_cast<uint32_t>(tensor.dtype));
  append(out, static_cast<uint64_t>(offset));
}

std::string header_text(const GgufMetadata& metadata, const std::vector<Tensor>& tensors, int64_t alignment,
                        const std::string& source) {
  std::string out(kGgufMagic);
  append(out, kGgufVersion);
  append(out, uint64_t{tensors.size()});
  append(out, uint64_t{metadata.entries().size()});
  for (const GgufEntry& entry : metadata.entries()) {
    append_entry(out, entry, source);
  }
  int64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    const int64_t n_bytes = checked_tensor_bytes(tensor, subject_of(source, tensor));
    append_tensor(out, tensor, offset);
    if (__builtin_add_overflow(offset, padded_bytes(n_bytes, alignment), &offset)) {
      throw Error(subject_of(source, tensor), "a file size of 63 bits", "more");
    }
  }
  out.resize(static_cast<size_t>(padded_bytes(static_cast<int64_t>(out.size()), alignment)), '\0');
  return out;
}

}  // namespace

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       std::vector<Tensor> tensors)
    : file_(path),
      tensors_(std::move(tensors)),
      source_(path.string()),
      alignment_(gguf_alignment(metadata)) {
  require_names(tensors_, source_);
  file_.write(header_text(metadata, tensors_, alignment_, source_));
}

void GgufWriter::write(std::span<const std::byte> bytes) {
  if (bytes.empty()) {
    return;
  }
  if (current_ == tensors_.size()) {
    throw Error(source_, "no bytes after the last tensor", fmt::format("{}", bytes.size()));
  }
  const Tensor& tensor = tensors_[current_];
  const int64_t n_bytes = tensor_bytes(tensor);
  if (std::cmp_greater(bytes.size(), n_bytes - written_)) {
    throw Error(subject_of(source_, tensor), fmt::format("{} bytes", n_bytes),
                fmt::format("at least {}", static_cast<size_t>(written_) + bytes.size()));
  }
  file_.write(bytes);
  written_ += static_cast<int64_t>(bytes.size());
  if (written_ == n_bytes) {
    file_.write(std::string(static_cast<size_t>(padded_bytes(n_bytes, alignment_) - n_bytes), '\0'));
    ++current_;
    written_ = 0;
  }
}

void GgufWriter::finish() {
  if (current_ < tensors_.size()) {
    throw Error(subject_of(source_, tensors_[current_]),
                fmt::format("{} bytes", tensor_bytes(tensors_[current_])), fmt::format("{}", written_));
  }
  file_.commit();
}

}  // namespace sluice::quant
