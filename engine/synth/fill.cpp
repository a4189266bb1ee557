// A task is a few rows.
#include "engine/synth/fill.h"

#include <algorithm>

namespace sluice::synth {
namespace {

constexpr int64_t kTaskBytes = int64_t{256} << 10;  // some ten microseconds of work

}  // namespace

void fill_rows(const RowGenerator& generator, int64_t first_row, int64_t row_bytes,
               std::span<std::byte> bytes, offload::Workers& workers) {
  const int64_t rows = static_cast<int64_t>(bytes.size()) / row_bytes;
  const int64_t grain = std::max<int64_t>(1, kTaskBytes / row_bytes);
  workers.for_ranges(rows, grain, [&](int64_t begin, int64_t end, int64_t /*worker*/) {
    generator.write(first_row + begin, bytes.subspan(static_cast<size_t>(begin * row_bytes),
                                                     static_cast<size_t>((end - begin) * row_bytes)));
  });
}

}  // namespace sluice::synth
