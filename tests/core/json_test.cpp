#include "core/json.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "tests/support/seed.h"
#include "tests/support/temp_folder.h"

namespace headrace {
namespace {

// The message of the error that parsing must end in.
std::string refusal(std::string_view text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "the text", limits);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kFormat);
    EXPECT_EQ(e.path(), "the text");
    EXPECT_EQ(std::string(e.what()).find("the text: "), 0u) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "accepted " << text;
  return "";
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(Json, ReadsEveryType) {
  const json::value v = parse_json(
      R"( {"a":[1,-2,18446744073709551615,1.5,"x\u00e9\n",true,false,null],"b":{},"":[]} )", "t");
  const json::object& o = v.as_object();
  EXPECT_EQ(o.at("a").as_array()[0].as_int64(), 1);
  EXPECT_EQ(o.at("a").as_array()[1].as_int64(), -2);
  EXPECT_EQ(o.at("a").as_array()[2].as_uint64(), ~uint64_t{0});
  EXPECT_EQ(o.at("a").as_array()[3].as_double(), 1.5);
  EXPECT_EQ(o.at("a").as_array()[4].as_string(), "x\xc3\xa9\n");
  EXPECT_TRUE(o.at("a").as_array()[5].as_bool());
  EXPECT_TRUE(o.at("a").as_array()[7].is_null());
  EXPECT_TRUE(o.at("b").as_object().empty());
  EXPECT_TRUE(o.at("").as_array().empty());
  EXPECT_EQ(parse_json("7", "t").as_int64(), 7);
  EXPECT_EQ(parse_json("\"x\"", "t").as_string(), "x");
}

TEST(Json, RefusesEqualKeysAtAnyDepth) {
  EXPECT_TRUE(contains(refusal(R"({"a":1,"a":1})"), "key \"a\" appears twice"));
  EXPECT_TRUE(contains(refusal(R"([{"x":{"k":1,"j":2,"\u006b":3}}])"), "key \"k\""));
  EXPECT_TRUE(contains(refusal(R"({"":1,"":2})"), "twice"));
  std::string many = "{";
  for (int i = 0; i < 1000; ++i) many += "\"k" + std::to_string(i) + "\":1,";
  EXPECT_TRUE(contains(refusal(many + "\"k500\":1}"), "twice"));
  EXPECT_EQ(parse_json(many + "\"z\":1}", "t").as_object().size(), 1001u);
  EXPECT_NO_THROW(parse_json(R"([{"a":1},{"a":{"a":2}}])", "t"));
}

TEST(Json, SaysWhatIsWrongBehindALongQuotation) {
  const std::string digits(400, '9'), key(400, 'k');
  EXPECT_TRUE(contains(refusal("[" + digits + "]"), "… is not finite"));
  EXPECT_TRUE(contains(refusal("{\"" + key + "\":1,\"" + key + "\":2}"), "twice"));
  EXPECT_LT(refusal("[" + digits + "]").size(), 300u);
  const std::string wide = std::string(119, 'k') + "\xc3\xa9\xc3\xa9";  // byte 120 is inside of é
  EXPECT_TRUE(contains(refusal("{\"" + wide + "\":1,\"" + wide + "\":2}"), "kk…\" appears"));
  EXPECT_EQ(shortened(wide, 121), wide.substr(0, 121) + "…");
  EXPECT_EQ(shortened(wide, wide.size()), wide);
}

TEST(Json, RefusesWhatIsNotFinite) {
  for (const char* text : {"1e999", "[-1e999]", "1e309", "179769313486231580793e289"}) {
    EXPECT_TRUE(contains(refusal(text), "not finite")) << text;
  }
  for (const char* text : {"NaN", "Infinity", "-Infinity", "nan", "1e"}) refusal(text);
  EXPECT_EQ(parse_json("1e-999", "t").as_double(), 0.0);
  EXPECT_EQ(parse_json("1.7976931348623157e308", "t").as_double(), 1.7976931348623157e308);
}

TEST(Json, RefusesBrokenText) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "}",
                           "[1,]",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{'a':1}",
                           "[1 2]",
                           "01",
                           "+1",
                           ".5",
                           "1.",
                           "tru",
                           "nulll",
                           "\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\t\"",
                           "// c\n1",
                           "/* c */1",
                           "[1]x",
                           "{} {}",
                           "1,",
                           "\xef\xbb\xbf{}",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "{\"a\"}",
                           "{\"a\":}",
                           "[[]",
                           "{\"a\":1]"}) {
    refusal(text);
  }
  refusal(std::string_view("{}\0", 3));
  refusal(std::string_view("\"\0\"", 3));
}

TEST(Json, RefusesInvalidUtf8) {
  for (const char* bytes : {"\xff", "\xc3", "\xc0\xaf", "\xe2\x82", "\xed\xa0\x80",
                            "\xf4\x90\x80\x80", "\xf0\x80\x80\x80", "\x80"}) {
    refusal(std::string("\"") + bytes + "\"");
    refusal(std::string("{\"") + bytes + "\":1}");
  }
  EXPECT_NO_THROW(parse_json("\"\xf0\x9f\x98\x80\xe2\x82\xac\"", "t"));
}

TEST(Json, BoundsDepthAndLength) {
  for (unsigned depth : {1u, 8u, 32u}) {
    const std::string open(depth, '[');
    const std::string close(depth, ']');
    EXPECT_NO_THROW(parse_json(open + close, "t", {.depth_max = depth}));
    refusal("[" + open + close + "]", {.depth_max = depth});
  }
  refusal(std::string(1'000'000, '['));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  refusal(objects);
  EXPECT_TRUE(contains(refusal("123456789", {.bytes_max = 8}), "limit"));
  EXPECT_NO_THROW(parse_json("12345678", "t", {.bytes_max = 8}));
}

TEST(Json, SaysWhere) {
  EXPECT_TRUE(contains(refusal("[1,2]   x"), "junk after the value at byte 8"));
  EXPECT_TRUE(contains(refusal("[1,?]"), "at byte 3"));
  const std::string quoted =
      refusal("{\"" + std::string(5000, 'k') + "\":1,\"" + std::string(5000, 'k') + "\":1}");
  EXPECT_LT(quoted.size(), 400u) << "an error must not repeat the file";
}

// strtod rounds correctly, so it is the judge of our numbers.
TEST(Json, NumbersAreTheNearestDoubles) {
  Random random(test::seed());
  for (uint64_t i = 0; i < test::cases(20'000); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    std::string text = std::to_string(random.next_u64()) + "." + std::to_string(random.next_u64()) +
                       "e" + std::to_string(static_cast<int>(random.below(560)) - 290);
    if (random.chance(0.5)) text = "-" + text;
    const double expected = std::strtod(text.c_str(), nullptr);
    ASSERT_TRUE(std::isfinite(expected)) << text;
    ASSERT_EQ(parse_json(text, "t").as_double(), expected) << text;
  }
  EXPECT_EQ(parse_json("1e-05", "t").as_double(), 1e-05);
  EXPECT_EQ(parse_json("18446744073709551616", "t").as_double(), 18446744073709551616.0);
}

json::value random_value(Random& random, unsigned depth) {
  const uint64_t kind = random.below(depth == 0 ? 6 : 8);
  if (kind == 0) return nullptr;
  if (kind == 1) return random.chance(0.5);
  if (kind == 2) return static_cast<int64_t>(random.next_u64());
  if (kind == 3) return random.next_u64();
  if (kind == 4)
    return std::ldexp(double{random.normal()}, static_cast<int>(random.below(600)) - 300);
  if (kind == 5) {
    json::string text;
    for (uint64_t n = random.below(12); n > 0; --n) text += static_cast<char>(random.below(128));
    return text;
  }
  if (kind == 6) {
    json::array array;
    for (uint64_t n = random.below(6); n > 0; --n) array.push_back(random_value(random, depth - 1));
    return array;
  }
  json::object object;
  for (uint64_t n = random.below(30); n > 0; --n) {
    object["k" + std::to_string(random.below(1000))] = random_value(random, depth - 1);
  }
  return object;
}

TEST(Json, WritesAndReadsBack) {
  Random random(test::seed(), 1);
  for (uint64_t i = 0; i < test::cases(500); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    const json::value value = random_value(random, 4);
    const std::string compact = to_text(value);
    ASSERT_NO_THROW(parse_json(compact, "t")) << compact;
    ASSERT_EQ(to_text(parse_json(compact, "t")), compact);
    ASSERT_EQ(to_text(parse_json(to_pretty(value), "t")), compact);
  }
}

TEST(Json, PrettyKeepsOrder) {
  const json::value value = parse_json(R"({"z":1,"a":[1,{"b":[]}],"m":{},"q\"":"\n"})", "t");
  EXPECT_EQ(to_pretty(value),
            "{\n  \"z\": 1,\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n"
            "  \"m\": {},\n  \"q\\\"\": \"\\n\"\n}\n");
  EXPECT_EQ(to_text(value), R"({"z":1,"a":[1,{"b":[]}],"m":{},"q\"":"\n"})");
}

TEST(Json, WritesReadableNumbers) {
  const json::value value = {1.0, -0.0, 0.1, 1e22, 1.5e-300, 123456789.0, 5e-324, 7, -7};
  EXPECT_EQ(to_text(value), "[1.0,-0.0,0.1,1e+22,1.5e-300,123456789.0,5e-324,7,-7]");
}

TEST(Json, NeverWritesWhatIsNotJson) {
  const json::value value = {HUGE_VAL, -HUGE_VAL, std::nan(""), 0.5};
  EXPECT_EQ(to_text(value), "[null,null,null,0.5]");
  EXPECT_EQ(to_pretty(value), "[\n  null,\n  null,\n  null,\n  0.5\n]\n");
}

ErrorCode read_error(const std::string& path, Bytes bytes_max) {
  try {
    read_file(path, bytes_max);
  } catch (const Error& e) {
    EXPECT_EQ(e.path(), path);
    return e.code();
  }
  ADD_FAILURE() << "read " << path;
  return ErrorCode::kFailed;
}

TEST(ReadFile, ReadsRegularFilesWithinTheLimit) {
  const test::TempFolder folder;
  const std::string path = folder.write("a.json", "{\"x\":1}");
  EXPECT_EQ(read_file(path, 7), "{\"x\":1}");
  EXPECT_EQ(read_error(path, 6), ErrorCode::kFormat);
  EXPECT_EQ(read_json(path).as_object().at("x").as_int64(), 1);
  EXPECT_EQ(read_file(folder.write("empty", ""), 0), "");
  EXPECT_EQ(read_error(folder.path_of("absent"), 10), ErrorCode::kIo);
  EXPECT_EQ(read_error(folder.path(), 10'000), ErrorCode::kIo);
  ASSERT_EQ(mkfifo(folder.path_of("pipe").c_str(), 0600), 0);
  EXPECT_EQ(read_error(folder.path_of("pipe"), 10), ErrorCode::kIo);
  EXPECT_EQ(read_error("/dev/zero", 10), ErrorCode::kIo);
}

}  // namespace
}  // namespace headrace
