#include "engine/stop.h"

#include <algorithm>

#include "core/error.h"

namespace headrace::engine {

namespace {

// Prefix lengths after one more byte, as Knuth, Morris and Pratt search.
uint16_t step(const std::string& text, const std::vector<uint16_t>& fallback, uint16_t state,
              char byte) {
  while (state > 0 && (state == text.size() || text[state] != byte)) state = fallback[state - 1];
  return text[state] == byte ? static_cast<uint16_t>(state + 1) : state;
}

}  // namespace

StopMatcher::StopMatcher(const Tokenizer& tokenizer, std::span<const std::string> stops,
                         bool skip_special)
    : decoding_(tokenizer.start_decoding(skip_special)) {
  for (const std::string& stop : stops) {
    HEADRACE_ASSERT(!stop.empty() && stop.size() < (1u << 16));
    Pattern pattern{.text = stop, .fallback = {0}};
    for (size_t i = 1; i < stop.size(); ++i) {
      pattern.fallback.push_back(step(stop, pattern.fallback, pattern.fallback[i - 1], stop[i]));
    }
    patterns_.push_back(std::move(pattern));
  }
}

std::string_view StopMatcher::settle() {
  size_t cut = text_.size(), held = 0;
  for (Pattern& pattern : patterns_) {
    const size_t length = pattern.text.size();
    for (size_t i = searched_; i < text_.size(); ++i) {
      pattern.state = step(pattern.text, pattern.fallback, pattern.state, text_[i]);
      if (pattern.state != length) continue;
      matched_ = true;
      cut = std::min(cut, i + 1 - length);
      break;
    }
    held = std::max<size_t>(held, pattern.state);
  }
  searched_ = text_.size();
  if (matched_) text_.resize(cut);
  const size_t begin = printed_;
  printed_ = matched_ ? cut : text_.size() - held;
  return std::string_view(text_).substr(begin, printed_ - begin);
}

std::string_view StopMatcher::push(int32_t id) {
  HEADRACE_ASSERT(!matched_, "a token after the stop string");
  decoding_->push(id, text_);
  return settle();
}

std::string_view StopMatcher::finish() {
  if (matched_) return {};
  const size_t begin = printed_;
  decoding_->finish(text_);
  settle();
  printed_ = text_.size();
  return std::string_view(text_).substr(begin);
}

}  // namespace headrace::engine
