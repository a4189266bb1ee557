// Experts read from model files past the page cache: they are read once, into memory of their own, and a copy
// in the cache would only push out what is needed.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "offload/expert_source.h"
#include "offload/file_reader.h"

namespace sluice::offload {

/// One of the three matrices of all experts of a layer, as it lies in a file: experts outermost, rows one
/// after the other.
struct FileExpertMatrix {
  std::string name;         // of the tensor, for errors
  size_t file = 0;          // index into the files
  int64_t offset = 0;       // of the tensor in the file, in bytes
  int64_t stride_rows = 0;  // rows from one expert to the next
  int64_t first_row = 0;    // of the matrix inside an expert's rows (fused gate_up: up starts after gate)
  ExpertPartShape shape;
};

struct FileExpertLayer {
  int64_t experts = 0;  // 0: a dense layer
  FileExpertMatrix gate, up, down;

  [[nodiscard]] const FileExpertMatrix& matrix(ExpertPart part) const {
    return part == ExpertPart::kGate ? gate : part == ExpertPart::kUp ? up : down;
  }
};

class FileExpertSource final : public ExpertSource {
 public:
  /// Opens the files. Throws Error naming the one that cannot be opened.
  FileExpertSource(const std::vector<FileToRead>& files, std::vector<FileExpertLayer> layers);

  /// [files] how each is read.
  [[nodiscard]] std::vector<ReadMode> modes() const;

  [[nodiscard]] int64_t layers() const override { return static_cast<int64_t>(layers_.size()); }
  [[nodiscard]] int64_t experts(int64_t layer) const override { return at(layer).experts; }
  [[nodiscard]] ExpertPartShape shape(int64_t layer, ExpertPart part) const override {
    return at(layer).matrix(part).shape;
  }
  [[nodiscard]] ExpertOrigin origin(int64_t layer, ExpertPart part) const override;
  /// Enough for disks that are many, or quick only when asked for much at once.
  [[nodiscard]] int64_t reads_at_once() const override { return 8; }
  void read(const ExpertRows& what, std::span<std::byte> bytes) const override;
  [[nodiscard]] std::span<const std::byte> read_into(const ExpertRows& what,
                                                     ReadBuffer& buffer) const override;

 private:
  // What read(file, offset, bytes) returns for these rows.
  template <typename Read>
  auto read_rows(const ExpertRows& what, const Read& read) const;
  [[nodiscard]] const FileExpertLayer& at(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }

  std::vector<std::unique_ptr<FileReader>> files_;
  std::vector<FileExpertLayer> layers_;
};

}  // namespace sluice::offload
