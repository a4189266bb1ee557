// Where the experts' bytes come from: a model file read directly, or a generator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "offload/read_buffer.h"
#include "quant/dtype.h"

namespace sluice::offload {

enum class ExpertPart { kGate, kUp, kDown };

/// One of the three matrices of every expert of a layer.
struct ExpertPartShape {
  quant::DType dtype = quant::DType::kF32;
  int64_t rows = 0;  // of one expert: gate and up d_expert, down d_model
  int64_t cols = 0;  // gate and up d_model, down d_expert
  std::span<const float>
      scales;  // [experts] second-level NVFP4 scales, or empty; the source keeps them alive
};

/// Consecutive rows of one expert's matrix.
struct ExpertRows {
  int64_t layer = 0;
  ExpertPart part = ExpertPart::kGate;
  int64_t expert = 0;
  int64_t first_row = 0;
  int64_t rows = 0;
};

/// Where a matrix comes from, for errors.
struct ExpertOrigin {
  std::string tensor;     // "model.gguf: tensor blk.3.ffn_up_exps.weight"
  int64_t first_row = 0;  // of the matrix inside an expert's rows of that tensor
};

class ExpertSource {
 public:
  ExpertSource() = default;
  ExpertSource(const ExpertSource&) = delete;
  ExpertSource& operator=(const ExpertSource&) = delete;
  virtual ~ExpertSource() = default;

  [[nodiscard]] virtual int64_t layers() const = 0;
  /// 0 for a dense layer.
  [[nodiscard]] virtual int64_t experts(int64_t layer) const = 0;
  [[nodiscard]] virtual ExpertPartShape shape(int64_t layer, ExpertPart part) const = 0;
  [[nodiscard]] virtual ExpertOrigin origin(int64_t layer, ExpertPart part) const = 0;
  /// Reads that should be under way at once, beside the threads that compute: what waits for a disk. 0 when
  /// read() computes itself.
  [[nodiscard]] virtual int64_t reads_at_once() const { return 0; }
  /// Writes the rows as GGUF blocks, one after the other; `bytes` holds rows * row_bytes(dtype, cols). May be
  /// called by several threads at once. Throws Error naming the file and tensor when they cannot be read.
  virtual void read(const ExpertRows& what, std::span<std::byte> bytes) const = 0;
  /// The same into a buffer; returns where in it the rows are.
  [[nodiscard]] virtual std::span<const std::byte> read_into(const ExpertRows& what,
                                                             ReadBuffer& buffer) const {
    const ExpertPartShape matrix = shape(what.layer, what.part);
    const std::span<std::byte> bytes = buffer.first(what.rows * quant::row_bytes(matrix.dtype, matrix.cols));
    read(what, bytes);
    return bytes;
  }
};

}  // namespace sluice::offload
