// Stop strings against a plain search of the whole text after every token.
#include "engine/stop.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/random.h"
#include "tests/support/seed.h"

namespace headrace::engine {
namespace {

// Token i is pieces[i]; the last `held` bytes of the text wait for the next token, as incomplete
// UTF-8 does.
class PieceTokenizer final : public Tokenizer {
 public:
  PieceTokenizer(std::vector<std::string> pieces, size_t held)
      : pieces_(std::move(pieces)), held_(held) {}
  std::vector<int32_t> encode(std::string_view, const EncodeOptions&) const override { return {}; }
  std::string decode(std::span<const int32_t> ids, bool) const override {
    std::string text;
    for (int32_t id : ids) text += pieces_[static_cast<size_t>(id)];
    return text;
  }
  std::unique_ptr<Decoding> start_decoding(bool) const override {
    class Pieces final : public Decoding {
     public:
      explicit Pieces(const PieceTokenizer& t) : t_(t) {}
      void push(int32_t id, std::string& out) override {
        waiting_ += t_.pieces_[static_cast<size_t>(id)];
        const size_t ready = waiting_.size() - std::min(waiting_.size(), t_.held_);
        out += waiting_.substr(0, ready);
        waiting_.erase(0, ready);
      }
      void finish(std::string& out) override { out += waiting_; }

     private:
      const PieceTokenizer& t_;
      std::string waiting_;
    };
    return std::make_unique<Pieces>(*this);
  }
  std::string token(int32_t id) const override { return pieces_[static_cast<size_t>(id)]; }
  size_t vocabulary_size() const override { return pieces_.size(); }

 private:
  std::vector<std::string> pieces_;
  size_t held_;
};

std::string random_text(Random& random, size_t least, size_t most) {
  std::string text;
  for (uint64_t n = random.between(least, most); n-- > 0;) {
    text += static_cast<char>('a' + random.below(2));
  }
  return text;
}

size_t first_match(const std::string& text, const std::vector<std::string>& stops) {
  size_t at = std::string::npos;
  for (const std::string& stop : stops) at = std::min(at, text.find(stop));
  return at;
}

TEST(Stop, RandomTextsEndWhereAPlainSearchEndsThem) {
  for (uint64_t c = 0; c < test::cases(4000); ++c) {
    SCOPED_TRACE(test::seed_note(c));
    Random random(test::seed(), 1000 + c);
    std::vector<std::string> pieces, stops;
    for (uint64_t n = random.between(2, 8); n-- > 0;) pieces.push_back(random_text(random, 0, 4));
    for (uint64_t n = random.below(4); n-- > 0;) stops.push_back(random_text(random, 1, 9));
    const PieceTokenizer tokenizer(pieces, random.below(3));
    StopMatcher matcher(tokenizer, stops);
    std::unique_ptr<Decoding> decoding = tokenizer.start_decoding(true);
    std::string all, printed;
    const uint64_t length = random.below(30);
    for (uint64_t i = 0; i < length && !matcher.matched(); ++i) {
      const auto id = static_cast<int32_t>(random.below(pieces.size()));
      decoding->push(id, all);
      printed += matcher.push(id);
      const size_t at = first_match(all, stops);
      ASSERT_EQ(matcher.matched(), at != std::string::npos) << all;
      if (matcher.matched()) {
        EXPECT_EQ(matcher.text(), all.substr(0, at));
        EXPECT_EQ(printed, matcher.text());
        continue;
      }
      EXPECT_EQ(matcher.text(), all);
      ASSERT_EQ(printed, all.substr(0, printed.size()));
      // No more is held back than may begin a stop string.
      const std::string held = all.substr(printed.size());
      EXPECT_TRUE(held.empty() || std::any_of(stops.begin(), stops.end(),
                                              [&](const auto& stop) {
                                                return stop.size() > held.size() &&
                                                       stop.compare(0, held.size(), held) == 0;
                                              }))
          << all << " holds back " << held;
    }
    const bool earlier = matcher.matched();
    printed += matcher.finish();
    EXPECT_EQ(printed, matcher.text());
    if (earlier) continue;
    decoding->finish(all);
    const size_t at = first_match(all, stops);
    EXPECT_EQ(matcher.matched(), at != std::string::npos);
    EXPECT_EQ(printed, all.substr(0, at));
  }
}

TEST(Stop, OfSeveralThatATokenCompletesTheFirstBeginningCounts) {
  const PieceTokenizer tokenizer({"xa", "bcd", "b"}, 0);
  const std::vector<std::string> stops = {"b", "abc"};
  StopMatcher one(tokenizer, stops);
  EXPECT_EQ(one.push(0), "x");
  EXPECT_EQ(one.push(1), "");
  EXPECT_TRUE(one.matched());
  EXPECT_EQ(one.text(), "x");
  StopMatcher other(tokenizer, stops);
  EXPECT_EQ(other.push(0), "x");
  EXPECT_EQ(other.push(2), "a");
  EXPECT_TRUE(other.matched());
  EXPECT_EQ(other.text(), "xa");
}

TEST(Stop, CharactersOfSeveralTokensAreMatchedWhole) {
  const auto tokenizer = Tokenizer::load(HEADRACE_GOLDEN_TOKENIZERS "/gpt2");
  const std::string text = "Stop at the sign: \xF0\x9F\x9B\x91 and not later";
  const std::vector<int32_t> ids = tokenizer->encode(text);
  const std::vector<std::string> stops = {"\x9F\x9B\x91 and", "\xF0\x9F\x9B\x91 a"};
  StopMatcher matcher(*tokenizer, stops);
  std::string printed;
  for (size_t i = 0; i < ids.size() && !matcher.matched(); ++i) printed += matcher.push(ids[i]);
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(printed, "Stop at the sign: ");
}

}  // namespace
}  // namespace headrace::engine
