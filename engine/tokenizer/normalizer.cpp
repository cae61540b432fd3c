#include "engine/tokenizer/normalizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "engine/tokenizer/fields.h"

namespace headrace::engine {
namespace {

constexpr std::string_view kPart = "normalizer";
// What one match or one text may grow by: keeps a hostile file from making gigabytes of a line. The
// longest normal form of a character has 11 times its bytes.
constexpr size_t kContentBytesMax = 64;
constexpr size_t kStepsMax = 16;
constexpr size_t kTextBytesMax = size_t{1} << 30;
constexpr size_t kGrowthMax = 16, kGrowthFree = size_t{1} << 16;

[[noreturn]] void fail_growth(size_t bytes) {
  throw Error(ErrorCode::kFailed,
              fmt::format("tokenizer: it makes more than {} bytes of a text; shorten the text, or "
                          "take tokenizer.json from its source anew",
                          bytes));
}

}  // namespace

std::string content_of(std::string_view text, std::string_view part) {
  if (text.size() > kContentBytesMax) {
    refuse_part(part, fmt::format("an insertion of {} bytes", text.size()));
  }
  return std::string(text);
}

Pattern pattern_of(const json::object& owner, std::string_view part, PatternBudget& budget) {
  const json::value* value = owner.if_contains("pattern");
  if (value == nullptr) fail_field(part, "the field pattern is missing");
  const json::object& pattern = object_at(*value, part);
  if (pattern.contains("String")) {
    return Pattern::literal(std::string(string_at(pattern, "String", part)));
  }
  return Pattern::regex(string_at(pattern, "Regex", part), budget);
}

std::string replace_all(const Pattern& pattern, std::string_view content, std::string_view text,
                        size_t most) {
  std::vector<Span> spans;
  pattern.find_all(text, spans);
  std::string out;
  out.reserve(text.size());
  for (const Span& span : spans) {
    out += span.matched ? content : text.substr(span.begin, span.end - span.begin);
    if (out.size() > most) fail_growth(most);
  }
  return out;
}

Normalizer::Normalizer(const json::value& config, PatternBudget& budget) {
  if (!config.is_null()) add(config, budget);
}

void Normalizer::add(const json::value& config, PatternBudget& budget) {
  const json::object& object = object_at(config, kPart);
  const std::string_view type = string_at(object, "type", kPart);
  if (type == "Sequence") {
    for (const json::value& part : array_at(object, "normalizers", kPart)) add(part, budget);
    return;
  }
  if (steps_.size() == kStepsMax) refuse_part(kPart, "a sequence of more than 16 parts");
  Step step{};
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    step.kind = Kind::kForm;
    step.form = type == "NFC"    ? NormalForm::kNfc
                : type == "NFD"  ? NormalForm::kNfd
                : type == "NFKC" ? NormalForm::kNfkc
                                 : NormalForm::kNfkd;
  } else if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    step.content = content_of(string_at(object, "prepend", kPart), kPart);
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    step.content = content_of(string_at(object, "content", kPart), kPart);
    step.pattern = pattern_of(object, kPart, budget);
  } else {
    refuse_part(kPart, fmt::format("the type {}", type));
  }
  steps_.push_back(std::move(step));
}

std::string Normalizer::apply(std::string_view text) const {
  const size_t most = std::min(kTextBytesMax, kGrowthMax * text.size() + kGrowthFree);
  std::string now(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kForm:
        now = to_normal_form(now, step.form);
        break;
      case Kind::kLowercase:
        now = to_lowercase(now);
        break;
      case Kind::kPrepend:
        if (!now.empty()) now.insert(0, step.content);
        break;
      case Kind::kReplace:
        now = replace_all(*step.pattern, step.content, now, most);
        break;
    }
    if (now.size() > most) fail_growth(most);
  }
  return now;
}

bool Normalizer::can_remove() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) {
    return step.kind == Kind::kReplace && step.content.empty();
  });
}

}  // namespace headrace::engine
