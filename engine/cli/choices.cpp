// The names are those that the engine itself gives.
#include "engine/cli/choices.h"

namespace sluice::cli {

const Choices<CacheType>& cache_type_choices() {
  static const Choices<CacheType> choices = [] {
    Choices<CacheType> all;
    for (const CacheType type :
         {CacheType::kF32, CacheType::kBF16, CacheType::kBF16Int8, CacheType::kFp8, CacheType::kFp8Int8}) {
      all.emplace_back(cache_type_name(type), type);
    }
    return all;
  }();
  return choices;
}

const Choices<AttentionMode>& attention_choices() {
  static const Choices<AttentionMode> choices{
      {attention_mode_name(AttentionMode::kSparse), AttentionMode::kSparse},
      {attention_mode_name(AttentionMode::kDense), AttentionMode::kDense}};
  return choices;
}

const Choices<Prefill>& prefill_choices() {
  static const Choices<Prefill> choices{
      {"auto", Prefill::kAuto}, {"cpu", Prefill::kCpu}, {"stream", Prefill::kStream}};
  return choices;
}

const Choices<NumaMode>& numa_choices() {
  static const Choices<NumaMode> choices{
      {"auto", NumaMode::kAuto}, {"off", NumaMode::kOff}, {"interleave", NumaMode::kInterleave}};
  return choices;
}

}  // namespace sluice::cli
