#include "core/trace.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <map>
#include <thread>

#include "core/error.h"
#include "core/json.h"
#include "core/random.h"
#include "tests/support/seed.h"
#include "tests/support/temp_folder.h"

namespace headrace {
namespace {

json::value read_plain(const std::string& path) { return parse_json(read_file(path, kGiB), path); }

std::string unzip(const std::string& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  EXPECT_NE(file, nullptr);
  EXPECT_EQ(gzdirect(file), 0) << "not compressed";
  std::string text;
  char room[4096];
  for (int got = 0; (got = gzread(file, room, sizeof room)) > 0;) {
    text.append(room, static_cast<size_t>(got));
  }
  EXPECT_EQ(gzclose(file), Z_OK);
  return text;
}

TEST(TraceTest, WritesLanesTransfersAndCounters) {
  const test::TempFolder folder;
  const VirtualClock clock;
  Trace trace({"compute", "disk \"0\""}, 100, clock);
  trace.record({.name = "step", .lane = 0, .begin_ns = 5000, .end_ns = 9001});
  trace.record({.name = trace.intern("fetch\n"),
                .lane = 1,
                .is_transfer = true,
                .edge = {Tier::kDisk, Tier::kHost},
                .kind = Kind::kWeights,
                .bytes = 4096,
                .begin_ns = 4000,
                .end_ns = 6000});
  trace.record({.name = "resident host", .is_counter = true, .bytes = 77, .begin_ns = 4500});
  trace.write(folder.path_of("t.json"), R"("model":"m","plan":{"rounds":3})");
  const json::value root = read_plain(folder.path_of("t.json"));
  const json::object& other = root.at("otherData").as_object();
  EXPECT_FALSE(other.at("version").as_string().empty());
  EXPECT_EQ(other.at("dropped").as_int64(), 0);
  EXPECT_EQ(other.at("plan").at("rounds").as_int64(), 3);
  std::vector<std::string> lines;
  for (const json::value& event : root.at("traceEvents").as_array())
    lines.push_back(to_text(event));
  const std::vector<std::string> expected = {
      R"({"ph":"M","pid":1,"tid":1,"name":"thread_name","args":{"name":"compute"}})",
      R"({"ph":"M","pid":1,"tid":1,"name":"thread_sort_index","args":{"sort_index":0}})",
      R"({"ph":"M","pid":1,"tid":2,"name":"thread_name","args":{"name":"disk \"0\""}})",
      R"({"ph":"M","pid":1,"tid":2,"name":"thread_sort_index","args":{"sort_index":1}})",
      R"({"ph":"X","name":"step","pid":1,"ts":1.0,"tid":1,"dur":4.001})",
      R"({"ph":"X","name":"fetch\n","pid":1,"ts":0.0,"tid":2,"dur":2.0,)"
      R"("args":{"edge":"disk->host","kind":"weights","bytes":4096}})",
      R"({"ph":"C","name":"resident host","pid":1,"ts":0.5,"args":{"bytes":77}})",
  };
  EXPECT_EQ(lines, expected);
}

TEST(TraceTest, CompressesByName) {
  const test::TempFolder folder;
  Trace trace({"a"}, 10'000);
  for (uint64_t i = 0; i < 10'000; ++i) {
    trace.record({.name = "n", .lane = 0, .begin_ns = i * 10, .end_ns = i * 10 + 5});
  }
  trace.write(folder.path_of("t.json"), "");
  trace.write(folder.path_of("t.json.gz"), "");
  const std::string plain = read_file(folder.path_of("t.json"), kGiB);
  EXPECT_EQ(unzip(folder.path_of("t.json.gz")), plain);
  EXPECT_LT(read_file(folder.path_of("t.json.gz"), kGiB).size(), plain.size() / 5);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), '\n'), 10'004);  // an event a line
}

// Nested scopes end, and are recorded, innermost first: the file must have them in order of begin.
TEST(TraceTest, SortsEachLane) {
  const test::TempFolder folder;
  Random random(test::seed());
  Trace trace({"a", "b", "c"}, 2000);
  for (int i = 0; i < 2000; ++i) {
    const uint64_t begin = random.below(300);
    trace.record({.name = "n",
                  .lane = static_cast<uint16_t>(random.below(3)),
                  .begin_ns = begin,
                  .end_ns = begin + random.below(50)});
  }
  trace.write(folder.path_of("t.json"), "");
  std::map<int64_t, std::pair<double, double>> last;  // by lane: begin, duration
  const json::value root = read_plain(folder.path_of("t.json"));
  size_t seen = 0;
  for (const json::value& event : root.at("traceEvents").as_array()) {
    if (event.at("ph").as_string() != "X") continue;
    ++seen;
    const std::pair now(event.at("ts").as_double(), event.at("dur").as_double());
    const auto [at, first] = last.try_emplace(event.at("tid").as_int64(), now);
    if (!first) {
      ASSERT_TRUE(at->second.first < now.first ||
                  (at->second.first == now.first && at->second.second >= now.second))
          << test::seed_note(seen);
      at->second = now;
    }
  }
  EXPECT_EQ(seen, 2000u);
}

TEST(TraceTest, CountsWhatItDropsFromManyThreads) {
  const test::TempFolder folder;
  Trace trace({"a", "b", "c", "d"}, 1000);
  {
    std::vector<std::jthread> threads;
    for (uint16_t lane = 0; lane < 4; ++lane) {
      threads.emplace_back([&trace, lane] {
        for (uint64_t i = 0; i < 400; ++i) {
          trace.record({.name = "n", .lane = lane, .begin_ns = i, .end_ns = i + 1});
        }
      });
    }
  }
  EXPECT_EQ(trace.dropped(), 600u);
  trace.write(folder.path_of("t.json"), "");
  const json::value root = read_plain(folder.path_of("t.json"));
  EXPECT_EQ(root.at("traceEvents").as_array().size(), 1000u + 8u);
  EXPECT_EQ(root.at("otherData").at("dropped").as_int64(), 600);
}

TEST(TraceTest, EmptyTraceIsValid) {
  const test::TempFolder folder;
  const Trace trace({}, 0);
  trace.write(folder.path_of("t.json"), "");
  EXPECT_TRUE(read_plain(folder.path_of("t.json")).at("traceEvents").as_array().empty());
}

TEST(TraceTest, SaysWhenItCannotWrite) {
  const Trace trace({"a"}, 1);
  for (const char* path : {"/nonexistent/t.json", "/nonexistent/t.json.gz", "/dev/full"}) {
    try {
      trace.write(path, "");
      ADD_FAILURE() << path;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kIo);
      EXPECT_EQ(e.path(), path);
    }
  }
}

}  // namespace
}  // namespace headrace
