#include "engine/tokenizer/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/normalizer.h"

namespace headrace::engine {
namespace {

constexpr std::string_view kPart = "decoder";
constexpr size_t kStepsMax = 16;
constexpr size_t kGrownBytesMax = 4096;  // of a token that replacements make longer

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// "<0x0A>" is 10, anything else -1. "<0x+A>" is 10 as well, as the library reads it.
int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return -1;
  const int low = hex_digit(token[4]);
  const int high = token[3] == '+' ? 0 : hex_digit(token[3]);
  return low < 0 || high < 0 ? -1 : high * 16 + low;
}

}  // namespace

Decoder::Decoder(const json::value& config, PatternBudget& budget) {
  if (config.is_null()) {
    steps_.push_back({.kind = Kind::kJoin});
  } else {
    add(config, budget);
  }
}

void Decoder::add(const json::value& config, PatternBudget& budget) {
  const json::object& object = object_at(config, kPart);
  const std::string_view type = string_at(object, "type", kPart);
  if (type == "Sequence") {
    for (const json::value& part : array_at(object, "decoders", kPart)) add(part, budget);
    return;
  }
  if (type == "Fuse") {
    fused_ = true;
    return;
  }
  if (steps_.size() == kStepsMax) refuse_part(kPart, "a sequence of more than 16 parts");
  Step step{};
  step.on_whole = fused_;
  if (type == "Strip") {
    step.kind = Kind::kStrip;
    append_utf8(char_at(object, "content", kPart), step.content);
    step.most = number_at(object, "start", kPart);
    if (number_at(object, "stop", kPart) != 0) refuse_part(kPart, "Strip from the end");
  } else if (type == "Metaspace") {
    step.kind = Kind::kMetaspace;
    append_utf8(char_at(object, "replacement", kPart), step.content);
    step.drops_first =
        !object.contains("prepend_scheme") || string_at(object, "prepend_scheme", kPart) != "never";
  } else if (fused_) {
    // These look at whole tokens or whole matches, which a stream no longer has.
    refuse_part(kPart, fmt::format("{} after the tokens are fused", type));
  } else if (type == "ByteLevel") {
    step.kind = Kind::kBytes;
    fused_ = true;
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    step.content = content_of(string_at(object, "content", kPart), kPart);
    step.pattern = pattern_of(object, kPart, budget);
  } else {
    refuse_part(kPart, fmt::format("the type {}", type));
  }
  steps_.push_back(std::move(step));
}

DecoderRun::DecoderRun(const Decoder& decoder)
    : decoder_(decoder), states_(decoder.steps_.size()) {}

void DecoderRun::push(std::string_view token, std::string& out) { feed(0, token, out); }

// Each step lets go of what it holds, through the steps behind it.
void DecoderRun::finish(std::string& out) {
  for (size_t i = 0; i < states_.size(); ++i) {
    if (decoder_.steps_[i].kind == Decoder::Kind::kByteFallback) end_fallback(i, out);
    if (decoder_.steps_[i].kind == Decoder::Kind::kBytes) {
      std::string rest;
      states_[i].repair.finish(rest);
      if (!rest.empty()) feed(i + 1, rest, out);
    }
  }
}

void DecoderRun::feed(size_t at, std::string_view text, std::string& out) {
  if (at == states_.size()) {
    out += text;
    return;
  }
  const Decoder::Step& step = decoder_.steps_[at];
  switch (step.kind) {
    case Decoder::Kind::kBytes:
      return feed_bytes(at, text, out);
    case Decoder::Kind::kByteFallback:
      return feed_fallback(at, text, out);
    case Decoder::Kind::kStrip:
      return feed_strip(at, text, out);
    case Decoder::Kind::kMetaspace:
      return feed_metaspace(at, text, out);
    case Decoder::Kind::kReplace:
      return feed(
          at + 1,
          replace_all(*step.pattern, step.content, text, std::max(text.size(), kGrownBytesMax)),
          out);
    case Decoder::Kind::kJoin:
      if (states_[at].items++ > 0) out += ' ';
      return feed(at + 1, text, out);
  }
}

// A token all of whose characters stand for bytes is those bytes; any other is its own UTF-8.
void DecoderRun::feed_bytes(size_t at, std::string_view token, std::string& out) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    const int byte = byte_of_char(next_char(token, i));
    if (byte < 0) {
      bytes = token;
      break;
    }
    bytes.push_back(static_cast<char>(byte));
  }
  std::string text;
  states_[at].repair.push(bytes, text);
  if (!text.empty()) feed(at + 1, text, out);
}

void DecoderRun::feed_fallback(size_t at, std::string_view token, std::string& out) {
  const int byte = fallback_byte(token);
  if (byte >= 0) {
    states_[at].bytes.push_back(static_cast<char>(byte));
    return;
  }
  end_fallback(at, out);
  feed(at + 1, token, out);
}

// A run of byte tokens is text only if all of it is valid UTF-8; otherwise each byte is U+FFFD. So
// nothing of a run can be told before it ends.
void DecoderRun::end_fallback(size_t at, std::string& out) {
  const std::string bytes = std::exchange(states_[at].bytes, {});
  if (bytes.empty()) return;
  if (is_utf8(bytes)) return feed(at + 1, bytes, out);
  for (size_t i = 0; i < bytes.size(); ++i) feed(at + 1, kReplacementText, out);
}

void DecoderRun::feed_strip(size_t at, std::string_view text, std::string& out) {
  const Decoder::Step& step = decoder_.steps_[at];
  State& state = states_[at];
  if (!step.on_whole) {
    state.stripped = 0;
    state.stripping = true;
  }
  while (state.stripping && !text.empty()) {
    if (state.stripped < step.most && text.starts_with(step.content)) {
      text.remove_prefix(step.content.size());
      ++state.stripped;
    } else {
      state.stripping = false;
    }
  }
  feed(at + 1, text, out);
}

void DecoderRun::feed_metaspace(size_t at, std::string_view text, std::string& out) {
  const Decoder::Step& step = decoder_.steps_[at];
  const bool first = states_[at].items == 0;
  if (!step.on_whole) ++states_[at].items;
  std::string spaced;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    next_char(text, i);
    const std::string_view character = text.substr(begin, i - begin);
    if (character != step.content) {
      spaced += character;
    } else if (!first || !step.drops_first) {
      spaced += ' ';
    }
  }
  feed(at + 1, spaced, out);
}

}  // namespace headrace::engine
