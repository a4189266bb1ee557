// The names are those that the engine itself gives.
#include "engine/cli/choices.h"

namespace sluice::cli {

const Choices<CacheType>& cache_type_choices() {
  static const Choices<CacheType> choices{{cache_type_name(CacheType::kF32), CacheType::kF32},
                                          {cache_type_name(CacheType::kBF16), CacheType::kBF16}};
  return choices;
}

const Choices<AttentionMode>& attention_choices() {
  static const Choices<AttentionMode> choices{
      {attention_mode_name(AttentionMode::kSparse), AttentionMode::kSparse},
      {attention_mode_name(AttentionMode::kDense), AttentionMode::kDense}};
  return choices;
}

const Choices<NumaMode>& numa_choices() {
  static const Choices<NumaMode> choices{
      {"auto", NumaMode::kAuto}, {"off", NumaMode::kOff}, {"interleave", NumaMode::kInterleave}};
  return choices;
}

}  // namespace sluice::cli
