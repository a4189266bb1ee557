// Rows made by all workers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/synth/row_generator.h"
#include "offload/workers.h"

namespace sluice::synth {

/// Rows first_row and on, bytes.size() / row_bytes of them.
void fill_rows(const RowGenerator& generator, int64_t first_row, int64_t row_bytes,
               std::span<std::byte> bytes, offload::Workers& workers);

}  // namespace sluice::synth
