#include "engine/perplexity.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "engine/generator.h"
#include "engine/softmax.h"

namespace headrace::engine {

double Score::perplexity() const { return std::exp(nll()); }

Score score_text(Session& session, std::span<const int32_t> ids, const Windows& windows,
                 const std::function<void(uint64_t)>& between) {
  HEADRACE_ASSERT(windows.length >= 2 && windows.stride >= 1 && windows.stride <= windows.length);
  Score score;
  size_t scored = 0;  // ids before it have had their turn
  for (size_t begin = 0; scored < ids.size(); begin += windows.stride) {
    const size_t end = std::min(begin + windows.length, ids.size());
    // The row of a token predicts the next one: the window's last row is not needed, nor are the
    // logits of those whose next token an earlier window has scored.
    const size_t first = std::max(scored, begin + 1);
    scored = end;
    if (first >= end) continue;
    const auto row = [&](uint32_t position, std::span<const float> logits) {
      between(score.tokens);
      const auto target = static_cast<size_t>(ids[begin + position + 1]);
      score.nll_sum += log_sum_exp(logits) - logits[target];
      ++score.tokens;
    };
    engine::score(session, ids.subspan(begin, end - 1 - begin), row,
                  static_cast<uint32_t>(first - 1 - begin));
  }
  return score;
}

}  // namespace headrace::engine
