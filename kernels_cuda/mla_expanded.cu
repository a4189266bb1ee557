// Latent attention in the expanded form: checks and the launch.
#include "kernels_cuda/mla_expanded.h"

#include <string>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/mla_expanded.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

constexpr const char* kWhat = "expanded attention on the GPU";

void require(bool holds, const char* what, int64_t found) {
  if (!holds) {
    throw Error(kWhat, what, std::to_string(found));
  }
}

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

void check_params(const MlaExpandedParams& p) {
  if (!mla_expanded_takes(p.shape)) {
    throw Error(kWhat, "heads of 128 + 64 and 128",
                std::to_string(p.shape.d_nope) + " + " + std::to_string(p.shape.d_rope) + " and " +
                    std::to_string(p.shape.d_value));
  }
  require(p.n_queries >= 0 && p.n_queries * p.n_heads < (int64_t{1} << 31), "n_queries x n_heads below 2^31",
          p.n_queries);
  require(p.n_heads >= 1, "a head or more", p.n_heads);
  require(p.first_head >= 0 && p.heads >= 1 && p.heads <= 65535 && p.first_head + p.heads <= p.n_heads,
          "1 to 65535 of the heads", p.heads);
  require(p.n_rows >= 0 && p.n_rows < (int64_t{1} << 31), "fewer than 2^31 rows", p.n_rows);
  require(p.n_rows <= p.rope.n_rows, "as many cached rows as keys or more", p.rope.n_rows);
  if (p.rope.format != LatentFormat::kBf16) {
    throw Error(kWhat, "cached rows in bf16", "another format");
  }
  require(p.rope.row_bytes % 16 == 0 &&
              p.rope.row_bytes >= latent_row_bytes(LatentFormat::kBf16, p.d_latent, p.shape.d_rope),
          "row_bytes of a whole row or more, a multiple of 16", p.rope.row_bytes);
  require(p.d_latent % 8 == 0, "d_latent of a multiple of 8", p.d_latent);
  for (const void* pointer : {p.queries, static_cast<const void*>(p.keys), static_cast<const void*>(p.values),
                              p.rope.data, static_cast<const void*>(p.out)}) {
    require(is_aligned(pointer), "everything aligned to 16 bytes",
            static_cast<int64_t>(reinterpret_cast<uintptr_t>(pointer) % 16));
  }
  require(p.counts != nullptr, "counts", 0);
  if (!(p.softmax_scale > 0.0F)) {
    throw Error(kWhat, "a positive softmax_scale", std::to_string(p.softmax_scale));
  }
}

int64_t bytes_of(FloatType type) {
  return type == FloatType::kF32 ? 4 : 2;
}

/// Past the heads before the first one.
template <typename T>
T* at_head(T* values, FloatType type, const MlaExpandedParams& p, int64_t dims) {
  using Byte = std::conditional_t<std::is_const_v<T>, const uint8_t, uint8_t>;
  return static_cast<Byte*>(values) + p.first_head * dims * bytes_of(type);
}

}  // namespace

void launch_mla_expanded(const MlaExpandedParams& params, cudaStream_t stream) {
  const MlaExpandedParams& p = params;
  check_params(p);
  if (p.n_queries == 0) {
    return;
  }
  constexpr float kLog2E = 1.44269504F;
  const device::ExpandedArgs args{
      .queries = at_head(p.queries, p.query_type, p, device::kExpandedKey),
      .keys = reinterpret_cast<const uint8_t*>(p.keys),
      .values = reinterpret_cast<const uint8_t*>(p.values),
      .rope = static_cast<const uint8_t*>(p.rope.data) + 2 * p.d_latent,
      .counts = p.counts,
      .out = at_head(p.out, p.out_type, p, device::kExpandedValue),
      .log_sum_exp = p.log_sum_exp == nullptr ? nullptr : p.log_sum_exp + p.first_head,
      .rope_row_bytes = p.rope.row_bytes,
      .n_rows = static_cast<int>(p.n_rows),
      .n_queries = static_cast<int>(p.n_queries),
      .query_heads = static_cast<int>(p.n_heads),
      .scale_log2 = p.softmax_scale * kLog2E,
      .query_type = p.query_type,
      .out_type = p.out_type};
  constexpr const char* kName = "mla_expanded";
  constexpr auto kShared = static_cast<int64_t>(sizeof(device::ExpandedShared));
  allow_shared<kShared>(device::mla_expanded, kName);
  const int64_t blocks = ceil_div(p.n_queries, int64_t{device::kExpandedQueries});
  launch_overlapping(device::mla_expanded, kName,
                     {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(p.heads)),
                      .block = dim3(device::kExpandedThreads),
                      .shared_bytes = kShared,
                      .stream = stream},
                     args);
}

}  // namespace sluice::cuda
