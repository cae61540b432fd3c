#include "engine/tokenizer/synthetic.h"

#include <fmt/format.h>

#include <iterator>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "engine/tokenizer/unicode.h"
#include "engine/tokenizer/vocabulary.h"

namespace headrace::engine {
namespace {

constexpr std::string_view kBegin = "<|begin_of_text|>";
constexpr std::string_view kEnd = "<|end_of_text|>";
constexpr std::string_view kSpaceMark = "\xC4\xA0";  // how a space is written, "Ġ"
constexpr size_t kPartBytesMax = 12;                 // longer pieces are words, which nothing joins

struct MadeMerge {
  std::string left, right;
};

// Letters in the order of their use in English, so that the early ones meet more often.
constexpr std::string_view kLetters = "etaoinshrdlcumwfgypbvkjxqz";

// Draws an index with a bias to the early ones, as frequent pieces are merged more often; half of
// the draws are even, so that early pairs do not run out.
size_t draw(Random& random, size_t count) {
  return random.below(random.chance(0.5) ? count : random.below(count) + 1);
}

// Joins known pieces to longer ones, as training would: each new token is two older ones.
std::vector<MadeMerge> make_merges(uint64_t count, uint64_t seed) {
  Random random(seed, 0x746f6b);
  std::vector<std::string> inner;  // pieces that can stand at the end of a token
  for (const char letter : kLetters) inner.emplace_back(1, letter);
  std::vector<std::string> starts = {std::string(kSpaceMark)};  // pieces that begin with a space
  std::unordered_set<std::string> known;
  std::vector<MadeMerge> merges;
  merges.reserve(count);
  while (merges.size() < count) {
    const bool start = random.chance(0.5);
    auto& lefts = start ? starts : inner;
    const std::string& left = lefts[draw(random, lefts.size())];
    const std::string& right = inner[draw(random, inner.size())];
    std::string joined = left + right;
    if (!known.insert(joined).second) continue;
    merges.push_back({left, right});
    if (joined.size() <= kPartBytesMax) lefts.push_back(std::move(joined));
  }
  return merges;
}

void append_quoted(std::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  out += '"';
}

std::string added_token(std::string_view content, uint64_t id) {
  return fmt::format(
      R"({{"id":{},"content":"{}","single_word":false,"lstrip":false,"rstrip":false,)"
      R"("normalized":false,"special":true}})",
      id, content);
}

}  // namespace

std::string synthetic_tokenizer_json(uint64_t vocabulary_size, uint64_t seed) {
  if (vocabulary_size < kSyntheticVocabularyLeast || vocabulary_size > kIdEnd) {
    throw Error(ErrorCode::kUsage,
                fmt::format("vocabulary: {} ids; a made-up tokenizer has {} to {}", vocabulary_size,
                            kSyntheticVocabularyLeast, kIdEnd));
  }
  const uint64_t begin = vocabulary_size - 2;
  const auto merges = make_merges(vocabulary_size - kSyntheticVocabularyLeast, seed);
  std::string out = fmt::format(
      R"({{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{0},{1}],)"
      R"("normalizer":null,"pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":false,)"
      R"("trim_offsets":true,"use_regex":true}},"post_processor":{{"type":"TemplateProcessing",)"
      R"("single":[{{"SpecialToken":{{"id":"{2}","type_id":0}}}},)"
      R"({{"Sequence":{{"id":"A","type_id":0}}}}],)"
      R"("pair":[{{"SpecialToken":{{"id":"{2}","type_id":0}}}},)"
      R"({{"Sequence":{{"id":"A","type_id":0}}}},{{"Sequence":{{"id":"B","type_id":1}}}}],)"
      R"("special_tokens":{{"{2}":{{"id":"{2}","ids":[{3}],"tokens":["{2}"]}}}}}},)"
      R"("decoder":{{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,)"
      R"("use_regex":true}},"model":{{"type":"BPE","dropout":null,"unk_token":null,)"
      R"("continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,)"
      R"("byte_fallback":false,"ignore_merges":false,"vocab":{{)",
      added_token(kBegin, begin), added_token(kEnd, begin + 1), kBegin, begin);
  out.reserve(out.size() + 64 * vocabulary_size);
  uint64_t id = 0;
  const auto add = [&](std::string_view token) {
    if (id > 0) out += ',';
    append_quoted(token, out);
    fmt::format_to(std::back_inserter(out), ":{}", id++);
  };
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string token;
    append_utf8(char_of_byte(static_cast<uint8_t>(byte)), token);
    add(token);
  }
  for (const auto& [left, right] : merges) add(left + right);
  out += R"(},"merges":[)";
  for (size_t i = 0; i < merges.size(); ++i) {
    if (i > 0) out += ',';
    append_quoted(merges[i].left + " " + merges[i].right, out);
  }
  out += "]}}\n";
  return out;
}

std::string synthetic_tokenizer_config_json() {
  return fmt::format(
      "{{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"bos_token\": \"{}\",\n"
      "  \"eos_token\": \"{}\",\n  \"add_bos_token\": true,\n  \"add_eos_token\": false,\n"
      "  \"clean_up_tokenization_spaces\": false\n}}\n",
      kBegin, kEnd);
}

}  // namespace headrace::engine
