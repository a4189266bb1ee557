// Reading memory as fast as it comes, to measure it.
#pragma once

#include <cstddef>
#include <span>

namespace sluice::offload {

/// Reads every whole 64 bytes, once, in order.
void read_through(std::span<const std::byte> bytes);

/// The same in the pattern of expert weights: pieces of 256 KiB, each in order, from all over the place.
void read_in_pieces(std::span<const std::byte> bytes);

}  // namespace sluice::offload
