#include "engine/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <utility>

#include "core/error.h"
#include "engine/tokenizer/unicode.h"
#include "engine/tokenizer/unicode_versions.h"

namespace headrace::engine {
namespace {

constexpr size_t kPatternBytesMax = 16 * kKiB;
constexpr Bytes kNativeSourceMax = 8 * kKiB;  // compiled size above which native code may be huge
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kDepthLimit = 200'000;
constexpr uint32_t kHeapLimitKib = 32 * 1024;

template <auto kFree>
struct Freed {
  template <typename T>
  void operator()(T* value) const {
    kFree(value);
  }
};
using Code = std::unique_ptr<pcre2_code, Freed<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freed<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 160> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// The begin of an expression, for messages.
std::string_view shown(std::string_view regex) { return regex.substr(0, 80); }

Code compile(std::string_view text, std::string_view original) {
  CompileContext context(pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 64);
  int error = 0;
  size_t offset = 0;
  // \C could cut a character in two; Ruby's ^ and $ are always about lines.
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                          &offset, context.get()));
  if (!code) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("regular expression {:?}: {}", shown(original), message_of(error)));
  }
  return code;
}

size_t info(const pcre2_code* code, uint32_t what) {
  size_t value = 0;
  pcre2_pattern_info(code, what, &value);
  return value;
}

}  // namespace

struct Pattern::Compiled {
  Code code;
  MatchContext limits;
};

Pattern::Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

Pattern Pattern::literal(std::string text) {
  if (text.empty()) {
    throw Error(ErrorCode::kUnsupported, "pattern: an empty string is not supported");
  }
  Pattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

Pattern Pattern::regex(std::string_view oniguruma, PatternBudget& budget) {
  if (oniguruma.empty() || oniguruma.size() > kPatternBytesMax) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("regular expression: it has {} bytes; 1 to {} are supported",
                            oniguruma.size(), kPatternBytesMax));
  }
  const std::string text = translate_regex(oniguruma);
  Pattern pattern;
  pattern.compiled_ = std::make_unique<Compiled>();
  auto& [code, limits] = *pattern.compiled_;
  code = compile(text, oniguruma);
  const size_t bytes = info(code.get(), PCRE2_INFO_SIZE);
  if (bytes > budget.code_left) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("regular expression {:?}: it is too large", shown(oniguruma)));
  }
  budget.code_left -= bytes;
  // Where native code cannot be made (no executable memory) the interpreter serves.
  if (bytes <= kNativeSourceMax && pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE) == 0) {
    const size_t native = info(code.get(), PCRE2_INFO_JITSIZE);
    if (native <= budget.native_left) {
      budget.native_left -= native;
    } else {
      code.reset();
      code = compile(text, oniguruma);
    }
  }
  limits.reset(pcre2_match_context_create(nullptr));
  if (!limits) throw std::bad_alloc();
  pcre2_set_match_limit(limits.get(), kMatchLimit);
  pcre2_set_depth_limit(limits.get(), kDepthLimit);
  pcre2_set_heap_limit(limits.get(), kHeapLimitKib);
  return pattern;
}

namespace {

// One search from `from`; false when there is no match at or after it.
bool search(const pcre2_code* code, pcre2_match_context* limits, pcre2_match_data* data,
            std::string_view text, size_t from) {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, limits);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
    rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data,
                     limits);
  }
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc < 0) {
    throw Error(ErrorCode::kFailed,
                fmt::format("tokenizer: its regular expression gave up on a text of {} bytes: {}",
                            text.size(), message_of(rc)));
  }
  return true;
}

// Puts known characters in the place of those that PCRE2 does not know; every offset stays. The
// text itself where there are none, which the lead bytes of the common scripts tell.
std::string_view with_known(std::string_view text, std::string& storage) {
  for (size_t at = 0; at < text.size();) {
    const auto lead = static_cast<uint8_t>(text[at]);
    if (lead < 0xE0 || (lead >= 0xE4 && lead <= 0xE9)) {
      at += lead < 0x80 ? 1 : lead < 0xE0 ? 2 : 3;
      continue;
    }
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    const char32_t known = stand_in(c);
    if (known == c) continue;
    if (storage.empty()) storage = text;
    std::string bytes;
    append_utf8(known, bytes);
    HEADRACE_DEBUG_ASSERT(bytes.size() == at - begin);
    storage.replace(begin, bytes.size(), bytes);
  }
  return storage.empty() ? text : std::string_view(storage);
}

void find_literal(std::string_view literal, std::string_view text, std::vector<Span>& out) {
  size_t covered = 0;
  for (size_t at = text.find(literal); at != std::string_view::npos;
       at = text.find(literal, covered)) {
    if (at > covered) out.push_back({covered, at, false});
    covered = at + literal.size();
    out.push_back({at, covered, true});
  }
  if (covered < text.size()) out.push_back({covered, text.size(), false});
}

}  // namespace

void Pattern::find_all(std::string_view text, std::vector<Span>& out) const {
  out.clear();
  if (text.empty()) return;
  if (!compiled_) return find_literal(literal_, text, out);
  std::string storage;
  text = with_known(text, storage);
  MatchData data(pcre2_match_data_create(1, nullptr));
  if (!data) throw std::bad_alloc();
  const size_t* found = pcre2_get_ovector_pointer(data.get());
  size_t covered = 0;
  bool after_match = false;
  for (size_t from = 0; from <= text.size();) {
    if (!search(compiled_->code.get(), compiled_->limits.get(), data.get(), text, from)) break;
    const size_t begin = found[0];
    const size_t end = found[1];
    // A lookbehind can make an expression match before `from` only with \K, which is refused.
    HEADRACE_ASSERT(begin >= from && end >= begin && end <= text.size());
    if (begin == end && after_match && covered == end) {
      // No empty match right behind the last match: go on one character later.
      size_t next = from;
      if (next < text.size()) {
        next_char(text, next);
      } else {
        ++next;
      }
      from = next;
      continue;
    }
    if (begin > covered) out.push_back({covered, begin, false});
    out.push_back({begin, end, true});
    covered = from = end;
    after_match = true;
  }
  if (covered < text.size()) out.push_back({covered, text.size(), false});
}

}  // namespace headrace::engine
