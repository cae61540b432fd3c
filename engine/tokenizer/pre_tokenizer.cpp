#include "engine/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine {
namespace {

constexpr std::string_view kPart = "pre_tokenizer";
constexpr size_t kStepsMax = 16;
// GPT-2's own expression, which ByteLevel means by use_regex.
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Each character of the class is a match of its own; the rest lies between.
void find_class(bool (*in_class)(char32_t), std::string_view text, std::vector<Span>& out) {
  out.clear();
  size_t covered = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (!in_class(next_char(text, at))) continue;
    if (begin > covered) out.push_back({covered, begin, false});
    out.push_back({begin, at, true});
    covered = at;
  }
  if (covered < text.size()) out.push_back({covered, text.size(), false});
}

// Runs of word characters and runs of what is neither word nor space; spaces are what matched.
void find_words(std::string_view text, std::vector<Span>& out) {
  enum class Class : uint8_t { kSpace, kWord, kOther };
  const auto class_of = [](char32_t c) {
    return is_word(c) ? Class::kWord : is_space(c) ? Class::kSpace : Class::kOther;
  };
  out.clear();
  Class last = Class::kSpace;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const Class now = class_of(next_char(text, at));
    if (!out.empty() && now == last) {
      out.back().end = at;
    } else {
      out.push_back({begin, at, now == Class::kSpace});
    }
    last = now;
  }
}

}  // namespace

PreTokenizer::PreTokenizer(const json::value& config, PatternBudget& budget) {
  if (!config.is_null()) add(config, budget);
}

void PreTokenizer::add(const json::value& config, PatternBudget& budget) {
  const json::object& object = object_at(config, kPart);
  const std::string_view type = string_at(object, "type", kPart);
  if (type == "Sequence") {
    for (const json::value& part : array_at(object, "pretokenizers", kPart)) add(part, budget);
    return;
  }
  if (steps_.size() == kStepsMax) refuse_part(kPart, "a sequence of more than 16 parts");
  Step step{};
  if (type == "ByteLevel") {
    step = bytes_of(object, budget);
  } else if (type == "Split") {
    step = split_of(object, budget);
  } else if (type == "Metaspace") {
    step = metaspace_of(object);
  } else if (type == "Digits") {
    const bool single = bool_at(object, "individual_digits", kPart);
    step = {.kind = Kind::kClass,
            .behavior = single ? Behavior::kIsolated : Behavior::kContiguous,
            .in_class = is_numeric};
  } else if (type == "Punctuation") {
    step = {.kind = Kind::kClass, .in_class = is_punctuation};
    if (object.contains("behavior")) {
      step.behavior = behavior_of(string_at(object, "behavior", kPart));
    }
  } else if (type == "WhitespaceSplit") {
    step = {.kind = Kind::kClass, .behavior = Behavior::kRemoved, .in_class = is_space};
  } else if (type == "Whitespace") {
    step = {.kind = Kind::kWords, .behavior = Behavior::kRemoved};
  } else {
    refuse_part(kPart, fmt::format("the type {}", type));
  }
  steps_.push_back(std::move(step));
}

PreTokenizer::Step PreTokenizer::bytes_of(const json::object& object, PatternBudget& budget) {
  Step step{.kind = Kind::kBytes};
  step.prefix_space = bool_at(object, "add_prefix_space", kPart);
  if (bool_at(object, "use_regex", kPart, true)) step.pattern = Pattern::regex(kGpt2, budget);
  return step;
}

PreTokenizer::Step PreTokenizer::split_of(const json::object& object, PatternBudget& budget) {
  Step step{.kind = Kind::kSplit};
  step.pattern = pattern_of(object, kPart, budget);
  step.behavior = behavior_of(string_at(object, "behavior", kPart));
  step.inverted = bool_at(object, "invert", kPart);
  return step;
}

PreTokenizer::Step PreTokenizer::metaspace_of(const json::object& object) {
  Step step{.kind = Kind::kMetaspace};
  append_utf8(char_at(object, "replacement", kPart), step.replacement);
  const std::string_view scheme =
      object.contains("prepend_scheme") ? string_at(object, "prepend_scheme", kPart) : "always";
  if (scheme == "always") {
    step.prepend = Prepend::kAlways;
  } else if (scheme == "first") {
    step.prepend = Prepend::kFirst;
  } else if (scheme != "never") {
    fail_field(kPart, fmt::format("prepend_scheme {} is not always, first or never", scheme));
  }
  // The field from before there was prepend_scheme; the two must not contradict each other.
  const json::value* prefix = object.if_contains("add_prefix_space");
  if (prefix != nullptr && !prefix->is_null() && !bool_at(object, "add_prefix_space", kPart) &&
      step.prepend != Prepend::kNever) {
    fail_field(kPart, "add_prefix_space does not agree with prepend_scheme");
  }
  const json::value* split = object.if_contains("split");
  step.cuts = split == nullptr || split->is_null() || bool_at(object, "split", kPart);
  return step;
}

PreTokenizer::Behavior PreTokenizer::behavior_of(std::string_view name) {
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kPrevious;
  if (name == "MergedWithNext") return Behavior::kNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  fail_field(kPart, fmt::format("the behavior {} is unknown", name));
}

// Turns matches and what lies between into the pieces that the behaviour makes of them.
void PreTokenizer::arrange(Behavior behavior, std::vector<Span>& spans) {
  if (behavior == Behavior::kIsolated) return;
  if (behavior == Behavior::kRemoved) {
    std::erase_if(spans, [](const Span& span) { return span.matched; });
    return;
  }
  // A match joins its neighbour unless that is a match that has joined one itself.
  const bool backwards = behavior == Behavior::kNext;
  if (backwards) std::reverse(spans.begin(), spans.end());
  size_t kept = 0;
  bool previous = false;
  for (const Span span : spans) {
    const bool joins =
        behavior == Behavior::kContiguous ? span.matched == previous : span.matched && !previous;
    previous = span.matched;
    if (joins && kept > 0) {
      (backwards ? spans[kept - 1].begin : spans[kept - 1].end) = backwards ? span.begin : span.end;
    } else {
      spans[kept++] = span;
    }
  }
  spans.resize(kept);
  if (backwards) std::reverse(spans.begin(), spans.end());
}

void PreTokenizer::run(std::string_view text, bool at_start, const Sink& sink) const {
  run_from(0, text, at_start, sink);
}

void PreTokenizer::run_from(size_t at, std::string_view piece, bool at_start,
                            const Sink& sink) const {
  if (piece.empty()) return;
  if (at == steps_.size()) return sink(piece);
  const Step& step = steps_[at];
  if (step.kind == Kind::kBytes) return run_bytes(at, piece, sink);
  if (step.kind == Kind::kMetaspace) return run_metaspace(at, piece, at_start, sink);
  std::vector<Span> spans;
  if (step.kind == Kind::kSplit) {
    step.pattern->find_all(piece, spans);
  } else if (step.kind == Kind::kClass) {
    find_class(step.in_class, piece, spans);
  } else {
    find_words(piece, spans);
  }
  if (step.inverted) {
    for (Span& span : spans) span.matched = !span.matched;
  }
  arrange(step.behavior, spans);
  for (const Span& span : spans) {
    run_from(at + 1, piece.substr(span.begin, span.end - span.begin), at_start && span.begin == 0,
             sink);
  }
}

// Cuts like GPT-2 where asked to, then writes each byte as its printable character.
void PreTokenizer::run_bytes(size_t at, std::string_view piece, const Sink& sink) const {
  const Step& step = steps_[at];
  std::string prefixed;
  if (step.prefix_space && piece.front() != ' ') {
    prefixed.reserve(piece.size() + 1);
    prefixed.append(" ").append(piece);
    piece = prefixed;
  }
  std::vector<Span> spans;
  if (step.pattern) {
    step.pattern->find_all(piece, spans);
  } else {
    spans.push_back({0, piece.size(), false});
  }
  std::string mapped;
  for (const Span& span : spans) {
    mapped.clear();
    for (const char byte : piece.substr(span.begin, span.end - span.begin)) {
      append_utf8(char_of_byte(static_cast<uint8_t>(byte)), mapped);
    }
    run_from(at + 1, mapped, false, sink);
  }
}

void PreTokenizer::run_metaspace(size_t at, std::string_view piece, bool at_start,
                                 const Sink& sink) const {
  const Step& step = steps_[at];
  std::string text;
  text.reserve(piece.size() + step.replacement.size());
  for (const char byte : piece) {
    if (byte == ' ') {
      text += step.replacement;
    } else {
      text.push_back(byte);
    }
  }
  const bool wanted =
      step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && at_start);
  if (wanted && !text.starts_with(step.replacement)) text.insert(0, step.replacement);
  if (!step.cuts) return run_from(at + 1, text, at_start, sink);
  std::vector<Span> spans;
  Pattern::literal(step.replacement).find_all(text, spans);
  arrange(Behavior::kNext, spans);
  for (const Span& span : spans) {
    run_from(at + 1, std::string_view(text).substr(span.begin, span.end - span.begin),
             at_start && span.begin == 0, sink);
  }
}

bool PreTokenizer::asks_for_start() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) {
    return step.kind == Kind::kMetaspace && step.prepend == Prepend::kFirst;
  });
}

}  // namespace headrace::engine
