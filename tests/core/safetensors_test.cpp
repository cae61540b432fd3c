#include "core/safetensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "core/clock.h"
#include "core/error.h"
#include "core/random.h"
#include "tests/support/seed.h"
#include "tests/support/temp_folder.h"

namespace headrace {
namespace {

std::string file_of(std::string_view header, Bytes data_bytes) {
  std::string file;
  for (unsigned i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file.append(header).append(data_bytes, 'd');
}

std::vector<TensorInfo> parse(std::string_view header, Bytes data_bytes) {
  return parse_safetensors_header(header, 8 + header.size(), 8 + header.size() + data_bytes,
                                  "FILE");
}

std::string entry(std::string_view name, std::string_view dtype, std::string_view shape,
                  Bytes begin, Bytes end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", name, dtype,
                     shape, begin, end);
}

// What `attempt` throws, after checking that it is an Error of that code with a whole message.
template <typename Attempt>
std::string refusal(ErrorCode code, const Attempt& attempt) {
  try {
    attempt();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_FALSE(e.path().empty());
    EXPECT_LT(std::string(e.what()).size(), 2000u);
    EXPECT_NE(std::string(e.what()).find("; "), std::string::npos) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

TEST(SafetensorsHeader, LegalOnes) {
  EXPECT_TRUE(parse("{}", 0).empty());
  EXPECT_TRUE(parse("{}      ", 0).empty());
  EXPECT_TRUE(parse(R"({"__metadata__":{"format":"pt","":""}})", 0).empty());
  // Out of order in the file, fields in any order, a scalar, an empty tensor, blanks inside.
  const std::string header = R"({ "b" : {"shape":[2,3],"data_offsets":[0,12],"dtype":"BF16"},)"
                             R"("__metadata__":{"a":"b"},)" +
                             entry("a", "F32", "", 12, 16) + "," +
                             entry("none", "I64", "0,7", 12, 12) + "," +
                             entry("\xc3\xa9", "BOOL", "1,1,1,1,1,1,1,1", 16, 17) + "} ";
  const auto tensors = parse(header, 17);
  ASSERT_EQ(tensors.size(), 4u);
  const Bytes base = 8 + header.size();
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_TRUE(tensors[0].shape.empty());
  EXPECT_EQ(tensors[0].bytes, 4u);
  EXPECT_EQ(tensors[0].offset, base + 12);
  EXPECT_EQ(tensors[1].name, "b");
  EXPECT_EQ(tensors[1].dtype, DType::kBF16);
  EXPECT_EQ(tensors[1].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(tensors[1].offset, base);
  EXPECT_EQ(tensors[2].name, "none");
  EXPECT_EQ(tensors[2].bytes, 0u);
  EXPECT_EQ(tensors[3].name, "\xc3\xa9");
  const std::string longest(512, 'n');
  EXPECT_EQ(parse("{" + entry(longest, "U8", "1", 0, 1) + "}", 1)[0].name, longest);
}

struct Hostile {
  const char* what;  // must occur in the message
  std::string header;
  Bytes data_bytes = 0;
};

std::string one(std::string_view fields) { return fmt::format("{{\"t\":{{{}}}}}", fields); }

std::vector<Hostile> hostile_headers() {
  const std::string good = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
  const std::string ok = entry("a", "F32", "1", 0, 4);
  std::string nested = "{\"t\":";
  for (int i = 0; i < 100'000; ++i) nested += "[";
  return {
      {"does not start", ""},
      {"does not start", " {}"},
      {"does not start", "[]"},
      {"does not start", "\xef\xbb\xbf{}"},
      {"does not end", "{}\n"},
      {"does not end", std::string("{}\0", 3)},
      {"does not end", "{"},
      {"incomplete", "{" + ok, 4},
      {"junk", "{}{}"},
      {"header:", "{,}"},
      {"header:", "{" + ok + ",}", 4},
      {"header:", "{/**/}"},
      {"header:", one(R"("dtype":"F32","shape":[1,],"data_offsets":[0,4])"), 4},
      {"header:", "{\"\xff\":{" + good + "}}", 4},
      {"header:", "{\"\xed\xa0\x80\":{" + good + "}}", 4},
      {"header:", R"({"\ud800":{)" + good + "}}", 4},
      {"too deep", one(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), 4},
      {"an array", nested + "}"},
      // The tree is not what it must be.
      {"\"t\" is text", R"({"t":"x"})"},
      {"\"t\" is a number", R"({"t":1})"},
      {"\"t\" is null", R"({"t":null})"},
      {"an array", R"({"t":[]})"},
      {"missing", R"({"t":{}})"},
      {"missing", one(R"("dtype":"F32","shape":[1])"), 4},
      {"missing", one(R"("dtype":"F32","data_offsets":[0,4])"), 4},
      {"missing", one(R"("shape":[1],"data_offsets":[0,4])"), 4},
      {"unknown field \"x\"", one(good + R"(,"x":1)"), 4},
      {"appears twice", one(good + R"(,"dtype":"F32")"), 4},
      {"appears twice", one(good + R"(,"shap\u0065":[1])"), 4},
      {"\"a\" appears twice", "{" + ok + "," + entry("a", "F32", "1", 4, 8) + "}", 8},
      {"\"a\" appears twice", "{" + ok + "," + entry("\\u0061", "F32", "1", 4, 8) + "}", 8},
      {"\"__metadata__\" appears twice", R"({"__metadata__":{},"__metadata__":{}})"},
      {"metadata \"k\" appears twice", R"({"__metadata__":{"k":"1","k":"1"}})"},
      {"a number", R"({"__metadata__":{"k":1}})"},
      {"an object", R"({"__metadata__":{"k":{}}})"},
      {"\"__metadata__\" is text", R"({"__metadata__":"x"})"},
      // Types.
      {"unknown type", one(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])"), 4},
      {"unknown type", one(R"("dtype":"float32","shape":[1],"data_offsets":[0,4])"), 4},
      {"unknown type", one(R"("dtype":"","shape":[1],"data_offsets":[0,4])"), 4},
      {"a number", one(R"("dtype":4,"shape":[1],"data_offsets":[0,4])"), 4},
      {"null", one(R"("dtype":null,"shape":[1],"data_offsets":[0,4])"), 4},
      // Shapes.
      {"an object", one(R"("dtype":"F32","shape":{},"data_offsets":[0,4])"), 4},
      {"a number", one(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), 4},
      {"text", one(R"("dtype":"F32","shape":["1"],"data_offsets":[0,4])"), 4},
      {"negative", one(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4},
      {"negative", one(R"("dtype":"F32","shape":[-0],"data_offsets":[0,0])"), 0},
      {"not a 64-bit integer", one(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), 4},
      {"not a 64-bit integer", one(R"("dtype":"F32","shape":[1e0],"data_offsets":[0,4])"), 4},
      {"not a 64-bit integer",
       one(R"("dtype":"F32","shape":[18446744073709551617],"data_offsets":[0,4])"), 4},
      {"a dimension", one(R"("dtype":"F32","shape":[281474976710656,0],"data_offsets":[0,0])"), 0},
      {"a dimension", one(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"),
       4},
      {"more than 8", one(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])"), 1},
      // Products that wrap: 2^42+1 rows of 2^22 are 2^22 elements in 64 bits; 2^32 * 2^32 are none.
      {"too many",
       one(R"("dtype":"U8","shape":[4398046511105,4194304],"data_offsets":[0,4194304])"), 4194304},
      {"too many", one(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0},
      {"too many",
       one(R"("dtype":"U8","shape":[2147483648,1073741824],)"
           R"("data_offsets":[0,2305843009213693952])"),
       0},
      {"do not match",  // 2^60 elements of 8 bytes fit into 64 bits, but not into the file
       one(R"("dtype":"I64","shape":[1073741824,1073741824],"data_offsets":[0,0])"), 0},
      {"do not match", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4},
      {"do not match", one(R"("dtype":"F32","shape":[0],"data_offsets":[0,4])"), 4},
      // Offsets.
      {"not a pair", one(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), 4},
      {"not a pair", one(R"("dtype":"F32","shape":[1],"data_offsets":[])"), 4},
      {"not a pair", one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), 4},
      {"end before", one(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4},
      {"negative", one(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])"), 4},
      {"hole",
       one(R"("dtype":"F32","shape":[1],)"
           R"("data_offsets":[18446744073709551611,18446744073709551615])"),
       4},
      {"past the end", one(good), 3},
      {"behind the last", one(good), 5},
      {"behind the last", "{}", 1},
      {"hole", "{" + ok + "," + entry("b", "F32", "1", 8, 12) + "}", 12},
      {"hole", "{" + entry("b", "F32", "1", 4, 8) + "}", 8},
      {"inside", "{" + ok + "," + entry("b", "F32", "1", 0, 4) + "}", 4},
      {"inside", "{" + entry("a", "F32", "2", 0, 8) + "," + entry("b", "F32", "1", 4, 8) + "}", 8},
      {"inside", "{" + entry("a", "F32", "2", 0, 8) + "," + entry("b", "F32", "0", 4, 4) + "}", 8},
      // Names.
      {"longer than 512", "{" + entry(std::string(513, 'n'), "F32", "1", 0, 4) + "}", 4},
      {"longer than 512", "{" + entry(std::string(1'000'000, 'n'), "F32", "1", 0, 4) + "}", 4},
      {"no name", "{" + entry("", "F32", "1", 0, 4) + "}", 4},
      {"control", "{" + entry("\\u0000", "F32", "1", 0, 4) + "}", 4},
      {"control", "{" + entry("a\\u001b[31m", "F32", "1", 0, 4) + "}", 4},
      {"control", "{" + entry("a\x7f", "F32", "1", 0, 4) + "}", 4},
      {"control", "{" + entry("a\xc2\x9b", "F32", "1", 0, 4) + "}", 4},
  };
}

TEST(SafetensorsHeader, HostileOnes) {
  for (const Hostile& hostile : hostile_headers()) {
    SCOPED_TRACE(hostile.header.substr(0, 200));
    const std::string message =
        refusal(ErrorCode::kFormat, [&] { parse(hostile.header, hostile.data_bytes); });
    EXPECT_NE(message.find(hostile.what), std::string::npos) << message;
    EXPECT_EQ(message.find("FILE: "), 0u) << message;
    EXPECT_EQ(message.find('\x1b'), std::string::npos) << "an escape must not reach the terminal";
  }
}

TEST(SafetensorsHeader, LegalTypesThatCannotRunAreNamed) {
  for (const char* type : {"F8_E4M3", "F8_E5M2", "U16", "U32", "U64", "C64"}) {
    const std::string message = refusal(ErrorCode::kUnsupported, [&] {
      parse(one(fmt::format(R"("dtype":"{}","shape":[1],"data_offsets":[0,8])", type)), 8);
    });
    EXPECT_NE(message.find(type), std::string::npos) << message;
  }
}

TEST(SafetensorsHeader, RefusesMoreThanItsLimits) {
  const std::string padded = "{}" + std::string(16 * kMiB - 2, ' ');
  EXPECT_TRUE(parse(padded, 0).empty());
  refusal(ErrorCode::kFormat, [&] { parse(padded + " ", 0); });
}

// A parser that compares every pair needs 10^10 steps here.
TEST(SafetensorsHeader, ManyTensorsTakeLinearTime) {
  std::string header = "{";
  constexpr uint64_t kTensors = 150'000;
  for (uint64_t i = 0; i < kTensors; ++i) {
    if (i > 0) header += ',';
    header += entry(fmt::format("t{}", i * 7919 % kTensors), "U8", "1,3", 3 * i, 3 * i + 3);
  }
  header += "}";
  const double start = steady_clock().seconds();
  EXPECT_EQ(parse(header, 3 * kTensors).size(), kTensors);
  EXPECT_LT(steady_clock().seconds() - start, 5.0);
}

// Any layout that is legal is accepted and read back; any single number changed in it is not.
TEST(SafetensorsHeader, RandomLayouts) {
  for (uint64_t i = 0; i < test::cases(300); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    std::vector<TensorInfo> made(random.between(1, 12));
    Bytes end = 0;
    for (size_t t = 0; t < made.size(); ++t) {
      made[t].name = fmt::format("t{:03}", t);
      made[t].dtype = static_cast<DType>(random.below(10));
      made[t].bytes = size_of(made[t].dtype);
      for (uint64_t rank = random.below(5); rank > 0; --rank) {
        made[t].shape.push_back(random.chance(0.05) ? 0 : random.between(1, 5));
        made[t].bytes *= made[t].shape.back();
      }
      made[t].offset = end;
      end += made[t].bytes;
    }
    // The order of names and the order of data differ.
    for (size_t t = made.size(); t > 1; --t) std::swap(made[t - 1], made[random.below(t)]);
    const size_t wrong = random.below(made.size());
    const Bytes shift = random.between(1, 9);
    const bool shift_begin = random.chance(0.5);
    const auto header_of = [&](bool broken) {
      std::string header;
      for (size_t t = 0; t < made.size(); ++t) {
        const Bytes off = broken && t == wrong ? shift : 0;
        header += header.empty() ? "{" : ",";
        header += entry(made[t].name, safetensors_name(made[t].dtype),
                        fmt::format("{}", fmt::join(made[t].shape, ",")),
                        made[t].offset + (shift_begin ? off : 0),
                        made[t].offset + made[t].bytes + (shift_begin ? 0 : off));
      }
      return header + "}";
    };
    const std::string header = header_of(false);
    const auto read = parse(header, end);
    ASSERT_EQ(read.size(), made.size());
    for (const TensorInfo& tensor : made) {
      const auto at = std::find_if(read.begin(), read.end(),
                                   [&](const TensorInfo& r) { return r.name == tensor.name; });
      ASSERT_NE(at, read.end());
      EXPECT_EQ(at->shape, tensor.shape);
      EXPECT_EQ(at->dtype, tensor.dtype);
      EXPECT_EQ(at->bytes, tensor.bytes);
      EXPECT_EQ(at->offset, tensor.offset + 8 + header.size());
    }
    refusal(ErrorCode::kFormat, [&] { parse(header_of(true), end); });
    refusal(ErrorCode::kFormat, [&] { parse(header, end + shift); });
    if (end > 0) refusal(ErrorCode::kFormat, [&] { parse(header, end - 1); });
  }
}

std::string f32_file(std::initializer_list<const char*> names) {
  std::string header = "{";
  Bytes end = 0;
  for (const char* name : names) {
    if (end > 0) header += ',';
    header += entry(name, "F32", "1", end, end + 4);
    end += 4;
  }
  return file_of(header + "}", end);
}

TEST(SafetensorsFolderTest, OneFile) {
  const test::TempFolder folder;
  const std::string file = f32_file({"b", "a"});
  const std::string path = folder.write("model.safetensors", file);
  const SafetensorsFolder opened = open_safetensors(folder.path());
  ASSERT_EQ(opened.files.size(), 1u);
  EXPECT_EQ(opened.files[0].path, path);
  EXPECT_EQ(opened.files[0].size, file.size());
  EXPECT_EQ(opened.files[0].header_bytes, file.size() - 8);
  EXPECT_GT(opened.files[0].mtime_ns, 0);
  EXPECT_GT(opened.files[0].ctime_ns, 0);
  ASSERT_NE(opened.find("b"), nullptr);
  EXPECT_EQ(opened.find("b")->offset, opened.files[0].header_bytes);
  EXPECT_EQ(opened.find("c"), nullptr);
  EXPECT_EQ(opened.find(""), nullptr);
  folder.write("model.safetensors", f32_file({"b", "c"}));
  EXPECT_NE(open_safetensors(folder.path()).files[0].header_digest, opened.files[0].header_digest);
}

TEST(SafetensorsFolderTest, DamagedFiles) {
  const test::TempFolder folder;
  const std::string good = f32_file({"a"});
  std::vector<std::string> files = {"",
                                    "1234567",
                                    std::string(8, '\0'),
                                    std::string(8, '\xff'),
                                    std::string("\0\0\0\0\0\0\0\x80{}", 10),
                                    std::string("\x03\0\0\0\0\0\0\0{}", 10),
                                    std::string("\x01\0\0\x01\0\0\0\0{}", 10),  // 16 MiB + 1
                                    good + "x"};
  for (size_t length = 0; length < good.size(); ++length) files.push_back(good.substr(0, length));
  for (const std::string& file : files) {
    folder.write("model.safetensors", file);
    const std::string message =
        refusal(ErrorCode::kFormat, [&] { open_safetensors(folder.path()); });
    EXPECT_NE(message.find("model.safetensors: "), std::string::npos) << message;
  }
}

TEST(SafetensorsFolderTest, WhatIsNotAFile) {
  const test::TempFolder folder;
  const std::string absent = refusal(ErrorCode::kIo, [&] { open_safetensors(folder.path()); });
  EXPECT_NE(absent.find("neither"), std::string::npos);
  refusal(ErrorCode::kIo, [&] { open_safetensors(folder.path_of("absent")); });
  folder.write("pytorch_model.bin", "x");
  const std::string pickled =
      refusal(ErrorCode::kUnsupported, [&] { open_safetensors(folder.path()); });
  EXPECT_NE(pickled.find("pickled"), std::string::npos);
  ASSERT_EQ(mkfifo(folder.path_of("model.safetensors").c_str(), 0600), 0);
  refusal(ErrorCode::kIo, [&] { open_safetensors(folder.path()); });
  std::filesystem::remove(folder.path_of("model.safetensors"));
  std::filesystem::create_directory(folder.path_of("model.safetensors"));
  refusal(ErrorCode::kIo, [&] { open_safetensors(folder.path()); });
}

constexpr const char* kIndex = "model.safetensors.index.json";

TEST(SafetensorsFolderTest, Shards) {
  const test::TempFolder folder;
  folder.write("m-2.safetensors", f32_file({"c", "a"}));
  const std::string target = folder.write("blob", f32_file({"b"}));
  ASSERT_EQ(symlink("blob", folder.path_of("m-1.safetensors").c_str()), 0);
  folder.write(kIndex, R"({"metadata":{"total_size":1e3},"weight_map":{"c":"m-2.safetensors",)"
                       R"("b":"m-1.safetensors","a":"m-2.safetensors"}})");
  const SafetensorsFolder opened = open_safetensors(folder.path());
  ASSERT_EQ(opened.files.size(), 2u);
  ASSERT_EQ(opened.tensors.size(), 3u);
  EXPECT_EQ(opened.tensors[0].name, "a");
  EXPECT_EQ(opened.files[opened.find("a")->file].path, folder.path_of("m-2.safetensors"));
  EXPECT_EQ(opened.files[opened.find("b")->file].path, folder.path_of("m-1.safetensors"));
  EXPECT_EQ(opened.find("c")->offset + 4, opened.find("a")->offset);
}

TEST(SafetensorsFolderTest, HostileIndexes) {
  const test::TempFolder folder;
  folder.write("x.safetensors", f32_file({"a", "b"}));
  folder.write("y.safetensors", f32_file({"b", "c"}));
  std::filesystem::create_directory(folder.path_of("sub"));
  folder.write("sub/x.safetensors", f32_file({"a"}));
  const std::string outside = folder.path_of("x.safetensors");
  const std::pair<std::string, const char*> cases[] = {
      {"", "byte"},
      {"[]", "weight_map"},
      {"{}", "weight_map"},
      {R"({"weight_map":[]})", "weight_map"},
      {R"({"weight_map":{}})", "empty"},
      {R"({"weight_map":{"a":1}})", "plain"},
      {R"({"weight_map":{"a":""}})", "plain"},
      {R"({"weight_map":{"a":"../x.safetensors"}})", "plain"},
      {R"({"weight_map":{"a":"sub/x.safetensors"}})", "plain"},
      {R"({"weight_map":{"a":"sub\\x.safetensors"}})", "plain"},
      {R"({"weight_map":{"a":"..safetensors"}})", "plain"},
      {R"({"weight_map":{"a":".safetensors"}})", "plain"},
      {R"({"weight_map":{"a":"x.safetensors\u0000"}})", "plain"},
      {R"({"weight_map":{"a":"\u001b.safetensors"}})", "plain"},
      {R"({"weight_map":{"a":"x.bin"}})", "plain"},
      {fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", outside), "plain"},
      {fmt::format(R"({{"weight_map":{{"a":"{}.safetensors"}}}})", std::string(300, 'x')), "plain"},
      {R"({"weight_map":{"a":"x.safetensors"}})", "disagree on tensor \"b\""},
      {R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors","b":"x.safetensors"}})", "twice"},
      {R"({"weight_map":{"a":"x.safetensors","b":"x.safetensors","c":"x.safetensors"}})",
       "disagree on tensor \"c\""},
      {R"({"weight_map":{"a":"x.safetensors","b":"x.safetensors","c":"y.safetensors"}})",
       "disagree on tensor \"b\""},
      {R"({"weight_map":{"a":"x.safetensors","b":"y.safetensors","c":"y.safetensors"}})",
       "disagree on tensor \"b\""},
      {R"({"weight_map":{"0":"x.safetensors","a":"x.safetensors","b":"x.safetensors"}})",
       "disagree on tensor \"0\""},
  };
  for (const auto& [index, what] : cases) {
    SCOPED_TRACE(index);
    folder.write(kIndex, index);
    const std::string message =
        refusal(ErrorCode::kFormat, [&] { open_safetensors(folder.path()); });
    EXPECT_NE(message.find(what), std::string::npos) << message;
  }
  folder.write(kIndex, R"({"weight_map":{"a":"absent.safetensors"}})");
  refusal(ErrorCode::kIo, [&] { open_safetensors(folder.path()); });
}

}  // namespace
}  // namespace headrace
