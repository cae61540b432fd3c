// How well a model predicts a text: the mean negative log-likelihood of its tokens over windows
// that slide along it. Sums are float64 in the order of the text, so the bits do not depend on the
// budget.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/session.h"

namespace headrace::engine {

struct Windows {
  uint32_t length = 0;  // tokens of context at most, 2 or more
  uint32_t stride = 0;  // from the begin of a window to that of the next, 1 to length
};

struct Score {
  double nll_sum = 0;   // natural logarithm
  uint64_t tokens = 0;  // predicted: each token once, but for the first of a window that has none
                        // before it
  double nll() const { return nll_sum / static_cast<double>(tokens); }
  double perplexity() const;
};

// `between` is called after every scored token with how many were before it in all: progress, and a
// place to throw from. The session's KV holds one window. Throws Error(kFailed) for logits that are
// no numbers.
Score score_text(Session& session, std::span<const int32_t> ids, const Windows& windows,
                 const std::function<void(uint64_t)>& between);

}  // namespace headrace::engine
