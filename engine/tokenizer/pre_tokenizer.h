// The pre_tokenizer of tokenizer.json: cuts normalised text into the words that byte-pair encoding
// never merges across. A line of steps; each cuts or rewrites the pieces of the step before. Const
// and thread-safe after construction.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "engine/tokenizer/pattern.h"

namespace headrace::engine {

class PreTokenizer {
 public:
  using Sink = std::function<void(std::string_view word)>;

  PreTokenizer() = default;
  // `config` is the field's value, null included. Throws kFormat, kUnsupported.
  PreTokenizer(const json::value& config, PatternBudget& budget);

  // `at_start`: `text` begins where the whole input begins. Words are valid only during the call.
  void run(std::string_view text, bool at_start, const Sink& sink) const;
  // Whether a step looks at whether a piece begins where the input begins.
  bool asks_for_start() const;

 private:
  enum class Kind : uint8_t { kBytes, kSplit, kClass, kWords, kMetaspace };
  enum class Behavior : uint8_t { kIsolated, kRemoved, kPrevious, kNext, kContiguous };
  enum class Prepend : uint8_t { kNever, kFirst, kAlways };
  struct Step {
    Kind kind;
    std::optional<Pattern> pattern;  // kSplit; kBytes where it splits, too
    Behavior behavior = Behavior::kIsolated;
    bool inverted = false;                 // what does not match is the delimiter
    bool (*in_class)(char32_t) = nullptr;  // kClass: the delimiters
    bool prefix_space = false;             // kBytes
    Prepend prepend = Prepend::kNever;     // kMetaspace
    std::string replacement;               // kMetaspace: stands for a space
    bool cuts = true;                      // kMetaspace
  };

  void add(const json::value& config, PatternBudget& budget);
  static Step split_of(const json::object& object, PatternBudget& budget);
  static Step metaspace_of(const json::object& object);
  static Step bytes_of(const json::object& object, PatternBudget& budget);
  static Behavior behavior_of(std::string_view name);
  static void arrange(Behavior behavior, std::vector<Span>& spans);

  void run_from(size_t step, std::string_view piece, bool at_start, const Sink& sink) const;
  void run_bytes(size_t at, std::string_view piece, const Sink& sink) const;
  void run_metaspace(size_t at, std::string_view piece, bool at_start, const Sink& sink) const;

  std::vector<Step> steps_;
};

}  // namespace headrace::engine
