#include "engine/backends/cuda_pinned_store.h"

#include <algorithm>

#include "kernels_cuda/base/device.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

std::vector<std::span<const std::byte>> cut(const std::vector<std::span<const std::byte>>& memory,
                                            size_t piece_bytes) {
  std::vector<std::span<const std::byte>> pieces;
  for (std::span<const std::byte> rest : memory) {
    while (!rest.empty()) {
      const size_t bytes = std::min(piece_bytes, rest.size());
      pieces.push_back(rest.first(bytes));
      rest = rest.subspan(bytes);
    }
  }
  std::ranges::sort(pieces, {}, [](const auto& piece) { return piece.data(); });
  return pieces;
}

}  // namespace

CudaPinnedStore::CudaPinnedStore(const std::vector<std::span<const std::byte>>& memory, int device,
                                 int64_t piece_bytes)
    : pieces_(cut(memory, static_cast<size_t>(piece_bytes))), locked_(pieces_.size()) {
  registrations_.reserve(pieces_.size());
  thread_ = std::jthread([this, device](const std::stop_token& stop) { lock_all(stop, device); });
}

// Before what it works on goes.
CudaPinnedStore::~CudaPinnedStore() {
  thread_.request_stop();
  thread_.join();
}

void CudaPinnedStore::lock_all(const std::stop_token& stop, int device) {
  try {
    cuda::use_device(device);
    for (size_t i = 0; i < pieces_.size() && !stop.stop_requested(); ++i) {
      registrations_.emplace_back(pieces_[i]);
      locked_[i].store(true, std::memory_order_release);
      locked_bytes_.fetch_add(static_cast<int64_t>(pieces_[i].size()), std::memory_order_relaxed);
    }
  } catch (const Error& error) {
    const std::scoped_lock lock(mutex_);
    problem_ = error.what();
  }
  finished_.store(true);
  finished_.notify_all();
}

CudaPinnedStore::Part CudaPinnedStore::first_part(std::span<const std::byte> span) const {
  const auto after =
      std::ranges::upper_bound(pieces_, span.data(), {}, [](const auto& p) { return p.data(); });
  if (after == pieces_.begin()) {
    return {span, false};
  }
  const std::span<const std::byte> piece = *(after - 1);
  const auto offset = static_cast<size_t>(span.data() - piece.data());
  if (offset >= piece.size()) {
    return {span, false};
  }
  const auto index = static_cast<size_t>(after - 1 - pieces_.begin());
  return {span.first(std::min(span.size(), piece.size() - offset)),
          locked_[index].load(std::memory_order_acquire)};
}

PageLock CudaPinnedStore::page_lock() const {
  PageLock result{.locked_bytes = locked_bytes_.load(std::memory_order_relaxed), .bytes = 0, .problem = {}};
  for (const std::span<const std::byte> piece : pieces_) {
    result.bytes += static_cast<int64_t>(piece.size());
  }
  const std::scoped_lock lock(mutex_);
  result.problem = problem_;
  return result;
}

}  // namespace sluice
