// Looks into a forward pass: what each layer computed. For dumps, tests and comparing implementations.
#pragma once

#include <cstdint>
#include <span>

#include "offload/routes.h"
#include "quant/base/view.h"

namespace sluice {

/// Every call covers a batch of tokens at positions first_position, first_position + 1, ...; views are valid
/// only during the call. Default implementations do nothing.
class ForwardObserver {
 public:
  ForwardObserver() = default;
  ForwardObserver(const ForwardObserver&) = delete;
  ForwardObserver& operator=(const ForwardObserver&) = delete;
  virtual ~ForwardObserver() = default;

  virtual void embedding(int64_t /*first_position*/, MatrixView<const float> /*x*/) {}
  /// Output of the attention block before it is added to the residual stream. [n_tokens, d_model]
  virtual void attention_output(int64_t /*layer*/, int64_t /*first_position*/,
                                MatrixView<const float> /*output*/) {}
  /// Positions that the token attends to, ascending; empty = all up to its own. Called per token in any
  /// order, one call at a time. `scores` are the indexer's, one per position up to the token's own, or empty
  /// when it did not run.
  virtual void selection(int64_t /*layer*/, int64_t /*position*/, std::span<const int32_t> /*selected*/,
                         std::span<const float> /*scores*/) {}
  virtual void routes(int64_t /*layer*/, int64_t /*first_position*/, const offload::Routes& /*routes*/) {}
  /// Residual stream after the layer. [n_tokens, d_model]
  virtual void layer_output(int64_t /*layer*/, int64_t /*first_position*/, MatrixView<const float> /*x*/) {}
  /// After the final norm. [n_tokens, d_model]
  virtual void final_norm(int64_t /*first_position*/, MatrixView<const float> /*x*/) {}
};

}  // namespace sluice
