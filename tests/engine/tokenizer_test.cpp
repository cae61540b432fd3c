// The tokenizer against goldens that PyPI's `tokenizers` made (tests/golden/make_tokenizers.py),
// and what the goldens cannot show: options, streams, threads, damaged and unsupported files.
#include "engine/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/value_to.hpp>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/random.h"
#include "engine/tokenizer/synthetic.h"
#include "engine/tokenizer/unicode.h"
#include "tests/support/seed.h"
#include "tests/support/temp_folder.h"

namespace headrace::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

uint32_t crc32(std::string_view text) {
  uint32_t crc = ~0U;
  for (const char c : text) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320U : 0);
  }
  return ~crc;
}

std::vector<int32_t> ids_of(const json::value& list) {
  return json::value_to<std::vector<int32_t>>(list);
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  TextStream stream(tokenizer, skip);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = stream.next(id);
    EXPECT_TRUE(is_utf8(part)) << "a piece cuts a character";
    text += part;
  }
  return text + stream.finish();
}

class TokenizerGolden : public ::testing::TestWithParam<std::string> {
 protected:
  TokenizerGolden()
      : folder_(std::string(HEADRACE_GOLDEN_TOKENIZERS "/") + GetParam()),
        tokenizer_(Tokenizer::load(folder_)),
        golden_(read_json(folder_ + "/golden.json")),
        texts_(read_json(HEADRACE_GOLDEN_TOKENIZERS "/texts.json")) {}

  std::string folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  json::value golden_, texts_;
};

TEST_P(TokenizerGolden, EncodesAndDecodesLikeTheLibrary) {
  const json::array& texts = texts_.as_array();
  ASSERT_GE(texts.size(), 500U);
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string text(texts[i].as_string().c_str(), texts[i].as_string().size());
    SCOPED_TRACE("text " + std::to_string(i) + ": " + text);
    const auto expected = ids_of(golden_.at("ids").at(i));
    const auto ids = tokenizer_->encode(text);
    ASSERT_EQ(ids, expected);
    for (const bool skip : {false, true}) {
      const std::string decoded = tokenizer_->decode(ids, skip);
      EXPECT_EQ(crc32(decoded), golden_.at(skip ? "hidden" : "decoded").at(i).to_number<uint32_t>())
          << decoded;
      EXPECT_EQ(streamed(*tokenizer_, ids, skip), decoded);
    }
  }
}

TEST_P(TokenizerGolden, DecodesIdsInAnyOrderLikeTheLibrary) {
  for (const json::value& loose : golden_.at("loose").as_array()) {
    const auto ids = ids_of(loose.at(0));
    SCOPED_TRACE(to_text(loose.at(0)));
    for (const bool skip : {false, true}) {
      const json::string& expected = loose.at(skip ? 2 : 1).as_string();
      EXPECT_EQ(tokenizer_->decode(ids, skip), std::string(expected.data(), expected.size()));
      EXPECT_EQ(streamed(*tokenizer_, ids, skip), std::string(expected.data(), expected.size()));
    }
  }
}

TEST_P(TokenizerGolden, NamesEachTokenLikeTheLibrary) {
  const json::array& tokens = golden_.at("tokens").as_array();
  ASSERT_EQ(tokenizer_->vocabulary_size(), tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    EXPECT_EQ(crc32(tokenizer_->token(static_cast<int32_t>(id))), tokens[id].to_number<uint32_t>())
        << id << ' ' << tokenizer_->token(static_cast<int32_t>(id));
  }
}

TEST_P(TokenizerGolden, ReplacesInvalidBytesBeforeAnythingElse) {
  for (uint64_t i = 0; i < test::cases(200); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    std::string bytes;
    for (uint64_t n = random.below(24); n > 0; --n) {
      bytes += random.chance(0.5) ? static_cast<char>(random.between(32, 126))
                                  : static_cast<char>(random.between(128, 255));
    }
    std::string repaired;
    repaired = std::string(to_utf8(bytes, repaired));
    EXPECT_TRUE(is_utf8(repaired));
    EXPECT_EQ(tokenizer_->encode(bytes), tokenizer_->encode(repaired));
  }
}

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(HEADRACE_GOLDEN_TOKENIZERS)) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden, ::testing::ValuesIn(golden_names()),
                         [](const auto& test) { return test.param; });

std::unique_ptr<Tokenizer> load_golden(const std::string& name) {
  return Tokenizer::load(std::string(HEADRACE_GOLDEN_TOKENIZERS "/") + name);
}

TEST(Tokenizer, AddsSpecialTokensOnlyWhenAsked) {
  const auto tokenizer = load_golden("llama3");
  const auto with = tokenizer->encode("hi");
  const auto without = tokenizer->encode("hi", {.add_special = false});
  ASSERT_EQ(with.size(), without.size() + 1);
  EXPECT_EQ(tokenizer->token(with[0]), "<|begin_of_text|>");
  EXPECT_EQ(tokenizer->decode(with), "hi");
  EXPECT_EQ(tokenizer->decode(with, false), "<|begin_of_text|>hi");
}

TEST(Tokenizer, TakesSpecialTokensAsTextWhenAsked) {
  const auto tokenizer = load_golden("qwen2");
  const std::string text = "<|im_start|>user<think>";
  const auto parsed = tokenizer->encode(text);
  EXPECT_EQ(tokenizer->token(parsed.front()), "<|im_start|>");
  const auto plain = tokenizer->encode(text, {.parse_special = false});
  for (const int32_t id : plain) EXPECT_NE(tokenizer->token(id), "<|im_start|>");
  EXPECT_EQ(tokenizer->decode(plain, true), text);
  // Added tokens that are not special are part of the text's encoding either way.
  EXPECT_EQ(tokenizer->token(plain.back()), "<think>");
}

TEST(Tokenizer, HoldsBackBytesThatLaterTokensCanChange) {
  const auto tokenizer = load_golden("llama2");
  int32_t e_acute[2] = {-1, -1};
  int32_t letter = -1;
  for (int32_t id = 0; id < static_cast<int32_t>(tokenizer->vocabulary_size()); ++id) {
    if (tokenizer->token(id) == "<0xC3>") e_acute[0] = id;
    if (tokenizer->token(id) == "<0xA9>") e_acute[1] = id;
    if (tokenizer->token(id) == "a") letter = id;
  }
  ASSERT_GE(std::min({e_acute[0], e_acute[1], letter}), 0);
  TextStream whole(*tokenizer);
  EXPECT_EQ(whole.next(e_acute[0]), "");
  EXPECT_EQ(whole.next(e_acute[1]), "");
  EXPECT_EQ(whole.next(letter),
            "\xC3\xA9"
            "a");
  EXPECT_EQ(whole.finish(), "");
  TextStream cut(*tokenizer);
  EXPECT_EQ(cut.next(e_acute[0]), "");
  EXPECT_EQ(cut.next(e_acute[1]), "");
  EXPECT_EQ(cut.next(e_acute[0]), "");
  EXPECT_EQ(cut.finish(), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // the run as a whole is invalid
}

TEST(Tokenizer, IgnoresIdsThatAreNotThere) {
  const auto tokenizer = load_golden("gpt2");
  const std::vector<int32_t> ids = {-1, INT32_MIN, INT32_MAX,
                                    static_cast<int32_t>(tokenizer->vocabulary_size())};
  EXPECT_EQ(tokenizer->decode(ids), "");
  for (const int32_t id : ids) EXPECT_EQ(tokenizer->token(id), "");
}

TEST(Tokenizer, ServesManyThreadsAtOnce) {
  const auto tokenizer = load_golden("llama3");
  const std::string text = "They'll say 1234567 words\n\n in a  row, I'M sure.";
  const auto expected = tokenizer->encode(text);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 300; ++i) {
        wrong[t] += tokenizer->encode(text) != expected;
        wrong[t] += tokenizer->decode(expected) != text;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

TEST(Tokenizer, LongRunsTakeLinearTime) {
  const auto tokenizer = load_golden("llama3");
  for (const char c : {' ', 'a', '\n', '7', '\xff'}) {
    const std::string text(400'000, c);
    const auto ids = tokenizer->encode(text, {.add_special = false});
    if (c != '\xff') {
      EXPECT_EQ(tokenizer->decode(ids), text);
    }
  }
  const auto qwen = load_golden("qwen2");
  std::string marks = "a";  // canonical ordering of a long run
  for (int i = 0; i < 100'000; ++i) marks += i % 2 == 0 ? "\xCC\x81" : "\xCC\xA3";
  EXPECT_GT(qwen->encode(marks).size(), 1000U);
}

// A small legal file, to which the tests below do one thing each.
json::value small_file() {
  return parse_json(
      R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":3,"content":"<s>",
      "single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
      "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{
      "type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
      "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
      "vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}})",
      "small file");
}

std::unique_ptr<Tokenizer> load_text(const std::string& text) {
  const test::TempFolder folder;
  folder.write("tokenizer.json", text);
  return Tokenizer::load(folder.path());
}

void expect_refused(const json::value& file, ErrorCode code, const std::string& part) {
  try {
    load_text(to_text(file));
    ADD_FAILURE() << "accepted: " << to_text(file);
  } catch (const Error& error) {
    EXPECT_EQ(name_of(error.code()), name_of(code)) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(part));
    EXPECT_THAT(error.path(), HasSubstr("tokenizer.json"));
  }
}

TEST(TokenizerFile, MergesMayStandBeforeTheVocabularyAndBePairs) {
  const std::string text = R"({"model":{"merges":[["a","b"],["ab"," c"]],)"
                           R"("vocab":{"a":0,"b":1,"ab":2," c":7,"ab c":9}}})";
  const auto tokenizer = load_text(text);
  EXPECT_THAT(tokenizer->encode("abab"), ElementsAre(2, 2));
  EXPECT_EQ(tokenizer->vocabulary_size(), 10U);
  EXPECT_EQ(tokenizer->token(9), "ab c");
  EXPECT_EQ(tokenizer->token(5), "");  // a hole
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{2, 5, 1}), "ab b");
}

TEST(TokenizerFile, LaterOfTwoEqualMergesCounts) {
  const auto tokenizer = load_text(
      R"({"model":{"vocab":{"a":0,"b":1,"c":2,"ab":3,"bc":4},"merges":["a b","b c","a b"]}})");
  EXPECT_THAT(tokenizer->encode("abc"), ElementsAre(0, 4));
}

TEST(TokenizerFile, RefusesWhatItCannotDoByName) {
  const std::vector<std::tuple<const char*, const char*, const char*>> cases = {
      {"/model/type", R"("WordPiece")", "WordPiece"},
      {"/model/vocab", R"([["a",-1.5]])", "Unigram"},
      {"/model/dropout", "0.1", "dropout"},
      {"/model/continuing_subword_prefix", R"("##")", "continuing_subword_prefix"},
      {"/model/end_of_word_suffix", R"("</w>")", "end_of_word_suffix"},
      {"/normalizer", R"({"type":"BertNormalizer"})", "BertNormalizer"},
      {"/normalizer", R"({"type":"Sequence","normalizers":[{"type":"Precompiled"}]})",
       "Precompiled"},
      {"/pre_tokenizer", R"({"type":"UnicodeScripts"})", "UnicodeScripts"},
      {"/post_processor", R"({"type":"BertProcessing"})", "BertProcessing"},
      {"/decoder", R"({"type":"WordPiece"})", "WordPiece"},
      {"/decoder", R"({"type":"Strip","content":" ","start":0,"stop":1})", "Strip"},
  };
  for (const auto& [at, value, part] : cases) {
    SCOPED_TRACE(value);
    json::value file = small_file();
    file.at_pointer(at) = parse_json(value, "value");
    expect_refused(file, ErrorCode::kUnsupported, part);
  }
}

TEST(TokenizerFile, RefusesExpressionsThatTheTwoEnginesReadDifferently) {
  const std::vector<std::pair<const char*, const char*>> cases = {{"a(?<n>b)", "group"},
                                                                  {"(?m:a)", "group"},
                                                                  {"a(?i)b", "group"},
                                                                  {"[a[b]]", "class inside"},
                                                                  {"[a&&b]", "intersection"},
                                                                  {"[]a]", "empty"},
                                                                  {"a{2}+", "quantifier"},
                                                                  {"a{2}?", "quantifier"},
                                                                  {"\\Ka", "K"},
                                                                  {"\\bword", "b"},
                                                                  {"\\h", "h"},
                                                                  {"(a)\\1", "1"},
                                                                  {"\\x80", "0x7f"},
                                                                  {"\\p{Nonsense}", "regular"},
                                                                  {"(", "regular"},
                                                                  {"[a", "without end"},
                                                                  {"a\\", "backslash"}};
  for (const auto& [regex, part] : cases) {
    SCOPED_TRACE(regex);
    json::value file = small_file();
    file.at("pre_tokenizer") = {{"type", "Split"},
                                {"pattern", {{"Regex", regex}}},
                                {"behavior", "Isolated"},
                                {"invert", false}};
    expect_refused(file, ErrorCode::kUnsupported, part);
  }
}

TEST(TokenizerFile, RefusesWhatIsWrong) {
  const std::vector<std::tuple<const char*, const char*, const char*>> cases = {
      {"/model", "3", "model"},
      {"/model/vocab", "3", "vocab"},
      {"/model/vocab/a", "-1", "model.vocab"},
      {"/model/vocab/a", "16777216", "model.vocab"},
      {"/model/vocab/a", "1.5", "model.vocab"},
      {"/model/vocab/a", "[0]", "model.vocab"},
      {"/model/vocab/a", "1", "there twice"},
      {"/model/vocab/a", "9999999", "dense"},
      {"/model/merges", R"(["a c"])", "merge 0"},
      {"/model/merges", R"(["ab"])", "two tokens"},
      {"/model/merges", R"(["a b c"])", "two tokens"},
      {"/model/merges", R"([["a"]])", "two parts"},
      {"/model/merges", R"([["a","b","c"]])", "two parts"},
      {"/model/merges", R"([["a",["b"]]])", "merges"},
      {"/model/merges", "[1]", "merge"},
      {"/model/unk_token", R"("nope")", "unk_token"},
      {"/model/fuse_unk", "1", "fuse_unk"},
      {"/added_tokens", "{}", "added_tokens"},
      {"/added_tokens/0", "[]", "added_tokens"},
      {"/added_tokens/0/id", "-1", "added_tokens"},
      {"/added_tokens/0/content", "1", "content"},
      {"/added_tokens/0/special", R"("x")", "special"},
      {"/normalizer", "1", "normalizer"},
      {"/normalizer", "{}", "type"},
      {"/pre_tokenizer", R"({"type":"ByteLevel"})", "add_prefix_space"},
      {"/decoder", R"({"type":"Strip","content":"ab","start":0,"stop":0})", "one character"},
      {"/post_processor",
       R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],)"
       R"("special_tokens":{}})",
       "special_tokens"},
  };
  for (const auto& [at, value, part] : cases) {
    SCOPED_TRACE(std::string(at) + " = " + value);
    json::value file = small_file();
    file.at_pointer(at) = parse_json(value, "value");
    expect_refused(file, ErrorCode::kFormat, part);
  }
}

TEST(TokenizerFile, RefusesDamage) {
  const std::string text = to_text(small_file());
  for (size_t size = 0; size < text.size(); size += 7) {
    EXPECT_THROW(load_text(text.substr(0, size)), Error) << size;
  }
  EXPECT_THROW(load_text(text + "x"), Error);
  EXPECT_THROW(load_text(R"({"model":{"vocab":{"a":0,"a":1},"merges":[]}})"), Error);
  EXPECT_THROW(load_text(R"({"model":{"vocab":{"\ud800":0},"merges":[]}})"), Error);
  EXPECT_THROW(load_text("{\"model\":{\"vocab\":{\"\xff\":0},\"merges\":[]}}"), Error);
  EXPECT_THROW(load_text(std::string(100'000, '[')), Error);
  EXPECT_THROW(load_text(R"({"normalizer":{"type":")" + std::string(1 << 20, 'x') + R"("}})"),
               Error);
  const test::TempFolder empty;
  EXPECT_THROW(Tokenizer::load(empty.path()), Error);
  EXPECT_THROW(Tokenizer::memory_bound(empty.path()), Error);
}

TEST(TokenizerFile, LimitsHostileExpressions) {
  json::value file = small_file();
  file.at("pre_tokenizer") =
      parse_json(R"({"type":"Split","pattern":{"Regex":"(?:a|aa)+[xy]"},"behavior":"Isolated",)"
                 R"("invert":false})",
                 "value");
  const auto tokenizer = load_text(to_text(file));
  EXPECT_THROW(tokenizer->encode(std::string(5000, 'a')), Error);
  file.at("pre_tokenizer").at("pattern").at("Regex") = "(?:(?:(?:a{1,99}b){1,99}){1,99}){1,99}";
  expect_refused(file, ErrorCode::kUnsupported, "regular expression");
}

TEST(TokenizerFile, LimitsWhatTextGrowsTo) {
  const auto replace = [](size_t size) {
    return json::object{{"type", "Replace"},
                        {"pattern", json::object{{"String", "a"}}},
                        {"content", std::string(size, 'a')}};
  };
  const auto steps = [&](const char* name, size_t size, size_t count) {
    return json::object{{"type", "Sequence"}, {name, json::array(count, replace(size))}};
  };
  json::value file = small_file();
  file.at("normalizer") = steps("normalizers", 64, 2);
  EXPECT_EQ(load_text(to_text(file))->encode("aaaa").size(), 4U * 64 * 64);
  file.at("normalizer") = steps("normalizers", 64, 5);
  const auto grows = load_text(to_text(file));
  EXPECT_THROW(grows->encode("aaaa"), Error);
  json::object& token = file.at("added_tokens").at(0).as_object();
  token["normalized"] = true;
  token["content"] = "aaaa";
  file.at("normalizer") = replace(64);
  expect_refused(file, ErrorCode::kUnsupported, "added_tokens");

  file = small_file();
  file.at("model").at("vocab").as_object()[std::string(65'536, 'a')] = 3;
  file.at("decoder") = steps("decoders", 64, 2);
  const auto decodes = load_text(to_text(file));
  EXPECT_EQ(decodes->decode(std::vector<int32_t>{0, 1}).size(), 64U * 64 + 1);
  EXPECT_THROW(decodes->decode(std::vector<int32_t>{3}), Error);
  file.at("decoder") = replace(60 * 1024);
  expect_refused(file, ErrorCode::kUnsupported, "decoder");
}

TEST(SyntheticTokenizer, HasExactlyTheIdsAskedFor) {
  for (const uint64_t size : {258, 259, 300, 1000, 20'000}) {
    SCOPED_TRACE(size);
    const std::string text = synthetic_tokenizer_json(size, 5);
    EXPECT_EQ(text, synthetic_tokenizer_json(size, 5));
    if (size > 260) {
      EXPECT_NE(text, synthetic_tokenizer_json(size, 6));
    }
    const auto tokenizer = load_text(text);
    ASSERT_EQ(tokenizer->vocabulary_size(), size);
    for (uint64_t id = 0; id < size; ++id) {
      ASSERT_NE(tokenizer->token(static_cast<int32_t>(id)), "") << id;
    }
    const std::string sample = "the rain in Spain\n\xF0\x9F\x98\x80 \xFF";
    const auto ids = tokenizer->encode(sample);
    EXPECT_EQ(ids.front(), static_cast<int32_t>(size - 2));
    EXPECT_EQ(tokenizer->decode(ids), "the rain in Spain\n\xF0\x9F\x98\x80 \xEF\xBF\xBD");
    EXPECT_EQ(tokenizer->encode("<|end_of_text|>", {.add_special = false}),
              std::vector<int32_t>{static_cast<int32_t>(size - 1)});
  }
  EXPECT_THROW(synthetic_tokenizer_json(257, 1), Error);
  EXPECT_THROW(synthetic_tokenizer_json((1 << 24) + 1, 1), Error);
  EXPECT_EQ(parse_json(synthetic_tokenizer_config_json(), "config").at("bos_token").as_string(),
            "<|begin_of_text|>");
}

}  // namespace
}  // namespace headrace::engine
