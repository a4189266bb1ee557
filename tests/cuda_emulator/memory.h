// The memory of the emulated GPU and page-locked memory: each allocation ends at a page that is not there, so
// that a kernel that goes past it fails; what such a page does not meet is seen by the bytes around it when
// it is freed. Addresses are not used again: what is freed is gone for good.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::emulator {

enum class Place { kPageable, kPinned, kDevice };

/// Of the whole GPU.
inline constexpr int64_t kDeviceBytes = int64_t{6} << 30;

/// Aligned to 256 bytes, the first 64 MiB filled with 0xFF. nullptr when there is no room, or for no bytes.
/// `place` is not kPageable.
void* allocate(Place place, size_t bytes);

/// Prints to stderr and aborts when bytes around the allocation were written. False when nothing of that
/// place begins at `data`.
bool release(Place place, void* data);

/// Whole [data, data + bytes) within one live allocation (or registration) is kDevice or kPinned.
Place place_of(const void* data, size_t bytes);

/// Whether any of the bytes is the GPU's.
bool touches_device(const void* data, size_t bytes);

int64_t free_device_bytes();

/// Memory that lies already becomes kPinned. False when some of it is so already.
bool register_pinned(const void* data, size_t bytes);
/// False when no registration begins there.
bool unregister_pinned(const void* data);

}  // namespace sluice::emulator
