// What has to be the same for a measurement of a machine to hold, for the names of files that keep one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "offload/machine.h"

namespace sluice::offload {

/// Processor, cores and memory in words, and whether this build measures as fast as the machine is.
std::string identity_of(const Machine& machine);

/// Processor, cores and GPUs in words, without memory: that of a virtual machine may grow while it is used.
std::string devices_of(const Machine& machine);

/// 64-bit FNV-1a.
uint64_t fnv1a(std::string_view text);

}  // namespace sluice::offload
