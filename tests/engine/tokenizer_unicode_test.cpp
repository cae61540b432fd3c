// What the tokenizer knows of Unicode, for every character, against what the `tokenizers` library
// knows (characters.json of tests/golden/make_tokenizers.py), and UTF-8 against its definition.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/random.h"
#include "engine/tokenizer/pattern.h"
#include "engine/tokenizer/unicode.h"
#include "tests/support/seed.h"

namespace headrace::engine {
namespace {

constexpr char32_t kBlockSize = 0x1000;

uint32_t crc32(std::string_view text) {
  static const auto table = [] {
    std::array<uint32_t, 256> values{};
    for (uint32_t i = 0; i < 256; ++i) {
      values[i] = i;
      for (int bit = 0; bit < 8; ++bit) {
        values[i] = (values[i] >> 1) ^ ((values[i] & 1) != 0 ? 0xEDB88320U : 0);
      }
    }
    return values;
  }();
  uint32_t crc = ~0U;
  for (const char c : text) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(c)) & 0xFF];
  return ~crc;
}

// The characters of each block of the goldens.
std::vector<std::vector<char32_t>> blocks() {
  std::vector<std::vector<char32_t>> result;
  const auto add = [&](char32_t first) {
    auto& block = result.emplace_back();
    for (char32_t c = std::max<char32_t>(first, 1); c < first + kBlockSize; ++c) {
      if (c < 0xD800 || c >= 0xE000) block.push_back(c);
    }
  };
  for (char32_t first = 0; first < 0x32000; first += kBlockSize) add(first);
  add(0xE0000);
  return result;
}

std::string text_of(const std::vector<char32_t>& block,
                    const std::function<void(char32_t, std::string&)>& write = append_utf8) {
  std::string text;
  for (const char32_t c : block) write(c, text);
  return text;
}

class Characters : public ::testing::Test {
 protected:
  // `make` of each block has the golden's CRC.
  void expect_same(const std::string& name,
                   const std::function<std::string(const std::vector<char32_t>&)>& make) {
    SCOPED_TRACE(name);
    const json::array& expected = golden_.at(name).as_array();
    ASSERT_EQ(expected.size(), blocks_.size());
    for (size_t i = 0; i < blocks_.size(); ++i) {
      if (blocks_[i].empty()) continue;
      EXPECT_EQ(crc32(make(blocks_[i])), expected[i].to_number<uint32_t>())
          << "block of U+" << std::hex << static_cast<uint32_t>(blocks_[i].front());
    }
  }

  json::value golden_ = read_json(HEADRACE_GOLDEN_TOKENIZERS "/characters.json");
  std::vector<std::vector<char32_t>> blocks_ = blocks();
};

TEST_F(Characters, BelongToTheClassesOfExpressions) {
  int classes = 0;
  for (const auto& entry : golden_.as_object()) {
    const std::string name(entry.key());
    if (name.front() != '\\' && name.front() != '[') continue;
    ++classes;
    PatternBudget budget;
    const Pattern pattern = Pattern::regex(name, budget);
    expect_same(name, [&](const std::vector<char32_t>& block) {
      const std::string text = text_of(block);
      std::vector<Span> spans;
      pattern.find_all(text, spans);
      std::string matched;
      for (const Span& span : spans) {
        if (span.matched) matched += text.substr(span.begin, span.end - span.begin);
      }
      return matched;
    });
  }
  EXPECT_GE(classes, 30);
}

TEST_F(Characters, BelongToTheClassesByName) {
  const std::vector<std::pair<std::string, bool (*)(char32_t)>> classes = {
      {"punctuation", is_punctuation},
      {"numeric", is_numeric},
      {"word", is_word},
      {"\\s", is_space}};
  for (const auto& [name, in_class] : classes) {
    expect_same(name, [in = in_class, of = name](const std::vector<char32_t>& block) {
      return text_of(block, [&](char32_t c, std::string& text) {
        // The golden puts a z behind: a z is a word character, and finds itself.
        if (in(c) || (of == "word" && c == U'z')) append_utf8(c, text);
      });
    });
  }
}

TEST_F(Characters, HaveTheSameNormalForms) {
  const std::vector<std::pair<std::string, NormalForm>> forms = {{"NFC", NormalForm::kNfc},
                                                                 {"NFD", NormalForm::kNfd},
                                                                 {"NFKC", NormalForm::kNfkc},
                                                                 {"NFKD", NormalForm::kNfkd}};
  for (const auto& [name, form] : forms) {
    expect_same(name, [form = form](const std::vector<char32_t>& block) {
      return to_normal_form(text_of(block,
                                    [](char32_t c, std::string& text) {
                                      text += "a\xCD\x85";
                                      append_utf8(c, text);
                                      text += "\xCC\xB4\xCC\x81 ";
                                    }),
                            form);
    });
  }
  expect_same("Lowercase", [](const auto& block) { return to_lowercase(text_of(block)); });
}

TEST(Utf8, EncodesAndDecodesEveryCharacter) {
  std::string text;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    text.clear();
    append_utf8(c, text);
    ASSERT_TRUE(is_utf8(text));
    size_t at = 0;
    ASSERT_EQ(next_char(text, at), c);
    ASSERT_EQ(at, text.size());
    ASSERT_EQ(previous_char(text, at), c);
    ASSERT_EQ(at, 0U);
  }
}

TEST(Utf8, ReplacesMaximalSubparts) {
  const std::vector<std::pair<std::string, int>> cases = {
      {"\x80", 1},         {"\xC0\xAF", 2},         {"\xE0\x80\xAF", 3},     {"\xED\xA0\x80", 3},
      {"\xF0\x80\x80", 3}, {"\xF4\x90\x80\x80", 4}, {"\xE2\x82", 1},         {"\xF0\x9F\x98", 1},
      {"\xF5\x80", 2},     {"\xE2\x82\xE2\x82", 2}, {"\xF0\x9F\xF0\x9F", 2}, {"\xFF\xFE", 2}};
  for (const auto& [bytes, replaced] : cases) {
    std::string storage;
    std::string expected;
    for (int i = 0; i < replaced; ++i) expected += kReplacementText;
    EXPECT_EQ(to_utf8(bytes, storage), expected);
    EXPECT_EQ(to_utf8("a" + bytes + "b", storage), "a" + expected + "b");
  }
}

TEST(Utf8, RepairsTheSameInAnyCuts) {
  for (uint64_t i = 0; i < test::cases(2000); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    constexpr std::string_view kBytes =
        "\x80\xBF\xC3\xA9\xE2\x82\xAC\xED\xA0\xF0\x9F\x98\x80\xF4\x90\xFF"
        "a";
    std::string bytes;
    for (uint64_t n = random.below(20); n > 0; --n) bytes += kBytes[random.below(kBytes.size())];
    std::string storage;
    const std::string whole(to_utf8(bytes, storage));
    LossyUtf8 repair;
    std::string cut;
    for (std::string_view rest = bytes; !rest.empty();) {
      const size_t size = random.between(1, std::min<size_t>(rest.size(), 5));
      repair.push(rest.substr(0, size), cut);
      rest.remove_prefix(size);
    }
    repair.finish(cut);
    EXPECT_EQ(cut, whole);
    EXPECT_TRUE(is_utf8(whole));
  }
}

TEST(Utf8, ByteAlphabetIsAOneToOneMap) {
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(byte_of_char(char_of_byte(static_cast<uint8_t>(byte))), byte);
  }
  EXPECT_EQ(char_of_byte(' '), U'\u0120');
  EXPECT_EQ(char_of_byte('\n'), U'\u010A');
  EXPECT_EQ(byte_of_char(U' '), -1);
  EXPECT_EQ(byte_of_char(0x10000), -1);
}

}  // namespace
}  // namespace headrace::engine
