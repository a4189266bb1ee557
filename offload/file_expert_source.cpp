#include "offload/file_expert_source.h"

#include <cassert>
#include <utility>

#include "quant/base/error.h"

namespace sluice::offload {

FileExpertSource::FileExpertSource(const std::vector<FileToRead>& files, std::vector<FileExpertLayer> layers)
    : layers_(std::move(layers)) {
  files_.reserve(files.size());
  for (const FileToRead& file : files) {
    files_.push_back(std::make_unique<FileReader>(file));
  }
}

std::vector<ReadMode> FileExpertSource::modes() const {
  std::vector<ReadMode> modes;
  modes.reserve(files_.size());
  for (const auto& file : files_) {
    modes.push_back(file->mode());
  }
  return modes;
}

ExpertOrigin FileExpertSource::origin(int64_t layer, ExpertPart part) const {
  const FileExpertMatrix& matrix = at(layer).matrix(part);
  return {.tensor = files_[matrix.file]->path().string() + ": tensor " + matrix.name,
          .first_row = matrix.first_row};
}

template <typename Read>
auto FileExpertSource::read_rows(const ExpertRows& what, const Read& read) const {
  const FileExpertMatrix& matrix = at(what.layer).matrix(what.part);
  const int64_t row_bytes = quant::row_bytes(matrix.shape.dtype, matrix.shape.cols);
  assert(what.first_row >= 0 && what.first_row + what.rows <= matrix.shape.rows);
  const int64_t row = what.expert * matrix.stride_rows + matrix.first_row + what.first_row;
  try {
    return read(*files_[matrix.file], matrix.offset + row * row_bytes, what.rows * row_bytes);
  } catch (const Error& error) {
    throw Error(error.subject() + ": tensor " + matrix.name, error.expected(), error.found());
  }
}

void FileExpertSource::read(const ExpertRows& what, std::span<std::byte> bytes) const {
  read_rows(what, [&](const FileReader& file, int64_t offset, [[maybe_unused]] int64_t n_bytes) {
    assert(static_cast<int64_t>(bytes.size()) == n_bytes);
    file.read(offset, bytes);
  });
}

std::span<const std::byte> FileExpertSource::read_into(const ExpertRows& what, ReadBuffer& buffer) const {
  return read_rows(what, [&](const FileReader& file, int64_t offset, int64_t n_bytes) {
    return file.read(offset, n_bytes, buffer);
  });
}

}  // namespace sluice::offload
