// The decoder of tokenizer.json, as a machine that takes tokens one by one and gives out text as
// soon as no later token can change it. What it gives out in all does not depend on when: decode()
// of a whole and a stream are the same machine. The configuration is const and thread-safe; a
// DecoderRun belongs to one decoding.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "engine/tokenizer/pattern.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine {

class Decoder {
 public:
  Decoder() = default;
  // `config` is the field's value; null joins tokens with spaces. Throws kFormat, kUnsupported.
  Decoder(const json::value& config, PatternBudget& budget);

 private:
  friend class DecoderRun;
  enum class Kind : uint8_t { kBytes, kByteFallback, kReplace, kStrip, kMetaspace, kJoin };
  struct Step {
    Kind kind;
    bool on_whole = false;           // a step before has fused the tokens into one text
    std::string content;             // kReplace: replacement; kStrip, kMetaspace: the character
    std::optional<Pattern> pattern;  // kReplace
    uint64_t most = 0;               // kStrip: characters that may go from the front
    bool drops_first = false;        // kMetaspace: marks of the first token vanish
  };

  void add(const json::value& config, PatternBudget& budget);

  std::vector<Step> steps_;
  bool fused_ = false;
};

class DecoderRun {
 public:
  explicit DecoderRun(const Decoder& decoder);
  void push(std::string_view token, std::string& out);
  void finish(std::string& out);

 private:
  struct State {
    LossyUtf8 repair;   // kBytes
    std::string bytes;  // kByteFallback: the run of byte tokens so far
    uint64_t stripped = 0;
    bool stripping = true;
    uint64_t items = 0;  // tokens seen so far, one where they are fused
  };

  void feed(size_t step, std::string_view text, std::string& out);
  void feed_bytes(size_t step, std::string_view token, std::string& out);
  void feed_fallback(size_t step, std::string_view token, std::string& out);
  void end_fallback(size_t step, std::string& out);
  void feed_strip(size_t step, std::string_view text, std::string& out);
  void feed_metaspace(size_t step, std::string_view text, std::string& out);

  const Decoder& decoder_;
  std::vector<State> states_;
};

}  // namespace headrace::engine
