// The normalizer of tokenizer.json: what is done to text before it is cut into words. Const and
// thread-safe after construction.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "engine/tokenizer/pattern.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine {

class Normalizer {
 public:
  Normalizer() = default;
  // `config` is the field's value, null included. Throws kFormat, kUnsupported.
  Normalizer(const json::value& config, PatternBudget& budget);

  bool empty() const { return steps_.empty(); }
  std::string apply(std::string_view text) const;
  // Whether it can drop characters, so that a text no longer begins where it began.
  bool can_remove() const;

 private:
  enum class Kind : uint8_t { kForm, kPrepend, kReplace, kLowercase };
  struct Step {
    Kind kind;
    NormalForm form = NormalForm::kNfc;
    std::string content;
    std::optional<Pattern> pattern;
  };

  void add(const json::value& config, PatternBudget& budget);

  std::vector<Step> steps_;
};

// {"String": …} or {"Regex": …}
Pattern pattern_of(const json::object& owner, std::string_view part, PatternBudget& budget);
// What takes the place of a match; throws kUnsupported for one that is long.
std::string content_of(std::string_view text, std::string_view part);
// `text` with each match replaced. Throws kFailed where that makes more than `most` bytes.
std::string replace_all(const Pattern& pattern, std::string_view content, std::string_view text,
                        size_t most);

}  // namespace headrace::engine
