#include "support/random_experts.h"

#include <algorithm>
#include <cmath>

#include "quant/block_codec.h"

namespace sluice::testing {

using offload::ExpertPart;
using quant::DType;

namespace {

// Random blocks of a type that nothing encodes: bytes until the block decodes to numbers of a moderate size.
void random_blocks(DType dtype, float deviation, std::span<std::byte> bytes, Random& random) {
  const quant::DTypeInfo& info = quant::dtype_info(dtype);
  std::vector<float> decoded(static_cast<size_t>(info.elements_per_block));
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(info.bytes_per_block)) {
    const auto block = bytes.subspan(at, static_cast<size_t>(info.bytes_per_block));
    float largest = 0;
    do {
      std::ranges::copy(random.bytes(info.bytes_per_block), block.begin());
      quant::dequantize_row(dtype, block, decoded);
      largest = 0;
      for (const float value : decoded)
        largest = std::isnan(value) ? value : std::max(largest, std::abs(value));
    } while (!(largest > 0.1F * deviation && largest < 4 * deviation));
  }
}

}  // namespace

RandomExperts::Matrix RandomExperts::make(DType dtype, int64_t experts, int64_t rows, int64_t cols,
                                          bool scaled, Random& random) {
  Matrix m{.dtype = dtype, .rows = rows, .cols = cols, .bytes = {}, .scales = {}};
  m.bytes.resize(static_cast<size_t>(experts * rows * quant::row_bytes(dtype, cols)));
  // Outputs of about the inputs' size, so that chained products stay tame.
  const auto deviation = 1.0F / std::sqrt(static_cast<float>(cols));
  if (quant::can_quantize(dtype)) {
    quant::quantize_row(dtype, random.normal(experts * rows * cols, deviation), m.bytes);
  } else {
    random_blocks(dtype, deviation, m.bytes, random);
  }
  for (int64_t e = 0; scaled && e < experts; ++e) m.scales.push_back(random.uniform(0.5F, 2.0F));
  return m;
}

void RandomExperts::add_layer(const RandomExpertShape& s, Random& random) {
  layers_.push_back({.experts = s.experts,
                     .parts = {make(s.gate, s.experts, s.d_expert, s.d_model, s.scaled, random),
                               make(s.up, s.experts, s.d_expert, s.d_model, s.scaled, random),
                               make(s.down, s.experts, s.d_model, s.d_expert, s.scaled, random)}});
}

offload::ExpertOrigin RandomExperts::origin(int64_t layer, ExpertPart part) const {
  constexpr const char* kNames[] = {"gate", "up", "down"};
  return {.tensor = "layer " + std::to_string(layer) + " " + kNames[static_cast<size_t>(part)],
          .first_row = 0};
}

std::span<std::byte> RandomExperts::bytes_of(int64_t layer, ExpertPart part, int64_t expert) {
  const std::span<const std::byte> all = bytes(layer, part, expert);
  return {const_cast<std::byte*>(all.data()), all.size()};
}

offload::ExpertPartShape RandomExperts::shape(int64_t layer, ExpertPart part) const {
  const Matrix& m = matrix(layer, part);
  return {.dtype = m.dtype, .rows = m.rows, .cols = m.cols, .scales = m.scales};
}

std::span<const std::byte> RandomExperts::bytes(int64_t layer, ExpertPart part, int64_t expert) const {
  const Matrix& m = matrix(layer, part);
  const auto size = static_cast<size_t>(m.rows * quant::row_bytes(m.dtype, m.cols));
  return std::span(m.bytes).subspan(static_cast<size_t>(expert) * size, size);
}

void RandomExperts::read(const offload::ExpertRows& what, std::span<std::byte> to) const {
  const Matrix& m = matrix(what.layer, what.part);
  const auto row = static_cast<size_t>(quant::row_bytes(m.dtype, m.cols));
  const auto from =
      bytes(what.layer, what.part, what.expert)
          .subspan(static_cast<size_t>(what.first_row) * row, static_cast<size_t>(what.rows) * row);
  std::ranges::copy(from, to.begin());
}

std::vector<double> RandomExperts::values(int64_t layer, ExpertPart part, int64_t expert) const {
  const Matrix& m = matrix(layer, part);
  std::vector<float> decoded(static_cast<size_t>(m.rows * m.cols));
  quant::dequantize_row(m.dtype, bytes(layer, part, expert), decoded);
  const double scale = m.scales.empty() ? 1.0 : static_cast<double>(m.scales[static_cast<size_t>(expert)]);
  std::vector<double> values;
  values.reserve(decoded.size());
  for (const float value : decoded) values.push_back(scale * static_cast<double>(value));
  return values;
}

std::vector<offload::ExpertLayer> RandomExperts::mapped() const {
  std::vector<offload::ExpertLayer> layers;
  for (const Layer& layer : layers_) {
    const auto view = [&](ExpertPart part) -> offload::ExpertMatrix {
      const Matrix& m = layer.parts[static_cast<size_t>(part)];
      return {.all = {m.dtype, m.bytes.data(), layer.experts * m.rows, m.cols,
                      quant::row_bytes(m.dtype, m.cols), 1.0F},
              .stride_rows = m.rows,
              .first_row = 0,
              .rows = m.rows,
              .scales = m.scales};
    };
    layers.push_back({.experts = layer.experts,
                      .gate = view(ExpertPart::kGate),
                      .up = view(ExpertPart::kUp),
                      .down = view(ExpertPart::kDown)});
  }
  return layers;
}

RandomExpertShape random_expert_shape(DType gate, DType down, Random& random) {
  const auto size = [&](DType dtype) {
    const int64_t block = quant::dtype_info(dtype).elements_per_block;
    return block == 1 ? random.integer(1, 100) : block * random.integer(1, block > 64 ? 2 : 4);
  };
  return {.experts = random.integer(1, 5),
          .d_model = size(gate),
          .d_expert = size(down),
          .gate = gate,
          .up = gate,
          .down = down};
}

std::vector<DType> weight_types() {
  std::vector<DType> types;
  for (const quant::DTypeInfo& info : quant::all_dtypes()) {
    if (quant::can_dequantize(info.dtype)) types.push_back(info.dtype);
  }
  return types;
}

}  // namespace sluice::testing
