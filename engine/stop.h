// The text of a request while its tokens come, and the stop strings that end it. A stop string is
// found in the text, wherever tokens divide it; of several that a token completes, the one that
// begins first counts. Text that may be the beginning of a stop string is held back, so what was
// printed is never taken back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace headrace::engine {

// Must not outlive the tokenizer. A token costs time by its own length and the number of stop
// strings, however long the text is.
class StopMatcher {
 public:
  // `stops` as check(SamplingParams) admits them: none is empty.
  StopMatcher(const Tokenizer& tokenizer, std::span<const std::string> stops,
              bool skip_special = true);

  // Text that this token settled, to be printed: valid until the next call. Not called once
  // matched() or finished.
  std::string_view push(int32_t id);
  // The rest, when the last token has come; its last bytes may still complete a stop string.
  std::string_view finish();

  bool matched() const { return matched_; }
  // All that push() and finish() gave, and until then what is held back; without the stop string.
  const std::string& text() const { return text_; }

 private:
  struct Pattern {
    std::string text;
    std::vector<uint16_t> fallback;  // of a prefix: its longest proper end that is a prefix too
    uint16_t state = 0;              // how much of it the text ends with
  };
  std::string_view settle();

  std::unique_ptr<Decoding> decoding_;
  std::vector<Pattern> patterns_;
  std::string text_;
  size_t searched_ = 0, printed_ = 0;  // of text_
  bool matched_ = false;
};

}  // namespace headrace::engine
