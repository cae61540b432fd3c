#include "engine/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <utility>

#include "core/error.h"
#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/decoder.h"
#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/post_processor.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/reader.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine {
namespace {

constexpr size_t kTextBytesMax = size_t{1} << 30;

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(TokenizerFile file)
      : vocabulary_(std::move(file.vocabulary)),
        bpe_(vocabulary_, std::move(file.model)),
        normalizer_(file.normalizer, budget_),
        added_(with_normal_forms(std::move(file.added), normalizer_), vocabulary_),
        pre_tokenizer_(file.pre_tokenizer, budget_),
        post_processor_(read_post_processor(file.post_processor)),
        decoder_(file.decoder, budget_) {
    if (pre_tokenizer_.asks_for_start() && normalizer_.can_remove()) {
      throw Error(ErrorCode::kUnsupported,
                  "normalizer: one that removes text is not supported before Metaspace with "
                  "prepend_scheme first; use another scheme");
    }
  }

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special) const override;
  std::unique_ptr<Decoding> start_decoding(bool skip_special) const override;
  std::string token(int32_t id) const override;
  size_t vocabulary_size() const override {
    return std::max(vocabulary_.id_end(), added_.id_end());
  }

 private:
  friend class BpeDecoding;

  static std::vector<AddedToken> with_normal_forms(std::vector<AddedToken> tokens,
                                                   const Normalizer& normalizer);
  // Appends the ids of a section of the text without added tokens that are matched raw.
  void encode_section(std::string_view text, bool at_start, const EncodeOptions& options,
                      BpeScratch& scratch, std::vector<int32_t>& out) const;
  // The text that `id` decodes from, null where it is unknown or hidden.
  const char* text_of(int32_t id, bool skip_special, std::string_view& text) const;

  PatternBudget budget_;  // before what draws on it
  Vocabulary vocabulary_;
  Bpe bpe_;
  Normalizer normalizer_;
  AddedTokens added_;
  PreTokenizer pre_tokenizer_;
  PostProcessor post_processor_;
  Decoder decoder_;
};

class BpeDecoding final : public Decoding {
 public:
  BpeDecoding(const BpeTokenizer& tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special), run_(tokenizer.decoder_) {}

  void push(int32_t id, std::string& out) override {
    std::string_view text;
    if (tokenizer_.text_of(id, skip_special_, text) != nullptr) run_.push(text, out);
  }
  void finish(std::string& out) override { run_.finish(out); }

 private:
  const BpeTokenizer& tokenizer_;
  bool skip_special_;
  DecoderRun run_;
};

std::vector<AddedToken> BpeTokenizer::with_normal_forms(std::vector<AddedToken> tokens,
                                                        const Normalizer& normalizer) {
  for (AddedToken& token : tokens) {
    if (!token.normalized || normalizer.empty()) continue;
    std::string normal = normalizer.apply(token.content);
    if (normal.empty()) {
      throw Error(
          ErrorCode::kFormat,
          fmt::format("added_tokens: nothing is left of {:?} when normalised", token.content));
    }
    if (normal.size() > 3 * token.content.size() + 64) {  // memory_bound() counts on less
      refuse_part("added_tokens", fmt::format("a normal form of {} bytes", normal.size()));
    }
    if (normal != token.content) token.normal = std::move(normal);
  }
  return tokens;
}

std::vector<int32_t> BpeTokenizer::encode(std::string_view text,
                                          const EncodeOptions& options) const {
  if (text.size() > kTextBytesMax) {
    throw Error(ErrorCode::kFailed,
                fmt::format("text: it has {} bytes; at most {} can be tokenized at once",
                            text.size(), kTextBytesMax));
  }
  std::string repaired;
  text = to_utf8(text, repaired);
  std::vector<int32_t> out;
  if (options.add_special) out = post_processor_.before;
  std::vector<Section> sections;
  added_.split(text, false, options.parse_special, sections);
  BpeScratch scratch;
  for (const Section& section : sections) {
    if (section.token != nullptr) {
      out.push_back(static_cast<int32_t>(section.token->id));
    } else {
      encode_section(text.substr(section.begin, section.end - section.begin), section.begin == 0,
                     options, scratch, out);
    }
  }
  if (options.add_special) {
    out.insert(out.end(), post_processor_.behind.begin(), post_processor_.behind.end());
  }
  return out;
}

void BpeTokenizer::encode_section(std::string_view text, bool at_start,
                                  const EncodeOptions& options, BpeScratch& scratch,
                                  std::vector<int32_t>& out) const {
  std::string normal;
  if (!normalizer_.empty()) {
    normal = normalizer_.apply(text);
    text = normal;
  }
  std::vector<Section> sections;
  added_.split(text, true, options.parse_special, sections);
  for (const Section& section : sections) {
    if (section.token != nullptr) {
      out.push_back(static_cast<int32_t>(section.token->id));
      continue;
    }
    pre_tokenizer_.run(text.substr(section.begin, section.end - section.begin),
                       at_start && section.begin == 0,
                       [&](std::string_view word) { bpe_.encode(word, scratch, out); });
  }
}

const char* BpeTokenizer::text_of(int32_t id, bool skip_special, std::string_view& text) const {
  if (id < 0) return nullptr;
  const auto number = static_cast<uint32_t>(id);
  if (const AddedToken* token = added_.find(number)) {
    if (token->hidden && skip_special) return nullptr;
    text = token->pattern();
  } else if (vocabulary_.has(number)) {
    text = vocabulary_.token(number);
  } else {
    return nullptr;
  }
  return text.data();
}

std::unique_ptr<Decoding> BpeTokenizer::start_decoding(bool skip_special) const {
  return std::make_unique<BpeDecoding>(*this, skip_special);
}

std::string BpeTokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  BpeDecoding decoding(*this, skip_special);
  std::string out;
  for (const int32_t id : ids) decoding.push(id, out);
  decoding.finish(out);
  return out;
}

std::string BpeTokenizer::token(int32_t id) const {
  std::string_view text;
  return text_of(id, false, text) == nullptr ? std::string() : std::string(text);
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  TokenizerFile file = read_tokenizer_file(path);
  try {
    return std::make_unique<BpeTokenizer>(std::move(file));
  } catch (const Error& error) {
    throw tokenizer_error(error, path);
  }
}

Bytes Tokenizer::memory_bound(const std::string& folder) {
  // Per byte of the file at most three stay: a merge "a b", of six bytes makes an entry of 12 and
  // 1.5 slots of 4; a token "a":1, of six makes 2 of text, an offset of 4 for up to two ids, and
  // 1.5 slots of 4; an added token needs 95 bytes and makes less than 200. The constant holds the
  // small parts, which are limited as such: values, patterns and their code, the read buffer.
  constexpr Bytes kPerByte = 3;
  constexpr Bytes kFixed = kMiB;
  return kPerByte * tokenizer_file_bytes(folder + "/tokenizer.json") + kFixed;
}

TextStream::TextStream(const Tokenizer& tokenizer, bool skip_special)
    : decoding_(tokenizer.start_decoding(skip_special)) {}

std::string TextStream::next(int32_t id) {
  std::string out;
  decoding_->push(id, out);
  return out;
}

std::string TextStream::finish() {
  std::string out;
  decoding_->finish(out);
  return out;
}

}  // namespace headrace::engine
