// Tokenizer::memory_bound() against what load() really takes: every allocation by operator new is
// counted here, and what the C library holds beside that is asked for.
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>

#include "engine/tokenizer/synthetic.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/support/temp_folder.h"

namespace {

std::atomic<int64_t> live{0}, peak{0};

void* count(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  const int64_t now = live += static_cast<int64_t>(malloc_usable_size(p));
  int64_t seen = peak;
  while (now > seen && !peak.compare_exchange_weak(seen, now)) {
  }
  return p;
}

void uncount(void* p) {
  live -= static_cast<int64_t>(malloc_usable_size(p));
  std::free(p);
}

}  // namespace

void* operator new(size_t size) { return count(std::malloc(size)); }
void* operator new[](size_t size) { return count(std::malloc(size)); }
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return count(std::malloc(size));  // std::stable_sort's
}
void operator delete(void* p) noexcept { uncount(p); }
void operator delete[](void* p) noexcept { uncount(p); }
void operator delete(void* p, size_t) noexcept { uncount(p); }
void operator delete[](void* p, size_t) noexcept { uncount(p); }

namespace headrace::engine {
namespace {

struct Use {
  int64_t bound, peak, resident, all;  // bytes; `all` is resident by the C library's count
};

Use measure(const std::string& text) {
  const test::TempFolder folder;
  folder.write("tokenizer.json", text);
  Use use{};
  use.bound = static_cast<int64_t>(Tokenizer::memory_bound(folder.path()));
  const auto in_use = [] {
    const auto info = mallinfo2();
    return static_cast<int64_t>(info.uordblks + info.hblkhd);
  };
  const int64_t all_before = in_use();
  const int64_t before = live;
  peak = before;
  const auto tokenizer = Tokenizer::load(folder.path());
  use.peak = peak - before;
  use.resident = live - before;
  use.all = in_use() - all_before;
  EXPECT_LE(use.peak, use.bound);
  EXPECT_LE(use.all, use.bound);
  EXPECT_GT(use.resident, 0);
  return use;
}

TEST(TokenizerMemory, StaysWithinTheBoundForEachSize) {
  for (const uint64_t size : {1000, 32'000, 150'000}) {
    SCOPED_TRACE(size);
    const std::string text = synthetic_tokenizer_json(size, 3);
    const Use use = measure(text);
    RecordProperty("resident_" + std::to_string(size), std::to_string(use.resident));
    // A bound that is far too large would take memory from the model.
    if (size > 1000) {
      EXPECT_LE(use.bound, 5 * use.peak);
    }
    std::printf("%lu ids: file %zu, peak %ld, resident %ld, bound %ld\n",
                static_cast<unsigned long>(size), text.size(), static_cast<long>(use.peak),
                static_cast<long>(use.resident), static_cast<long>(use.bound));
  }
}

TEST(TokenizerMemory, StaysWithinTheBoundForTheWorstFiles) {
  std::string merges;
  for (int i = 0; i < 300'000; ++i) merges += merges.empty() ? "\"a b\"" : ",\"a b\"";
  measure(R"({"model":{"vocab":{"a":0,"b":1,"ab":2},"merges":[)" + merges + "]}}");

  std::string tokens;  // the shortest texts that differ, and holes
  for (int i = 0; i < 300'000; ++i) {
    if (i > 0) tokens += ',';
    tokens += '"';
    for (int rest = i; rest > 0; rest /= 90) tokens += static_cast<char>('#' + rest % 57);
    tokens += std::to_string(i) + "\":" + std::to_string(2 * i);
  }
  measure(R"({"model":{"vocab":{)" + tokens + R"(},"merges":[]}})");

  std::string added;
  for (int i = 0; i < 60'000; ++i) {
    added +=
        (i > 0 ? "," : "") + std::string(R"({"id":0,"content":")") + std::to_string(i) +
        R"(","single_word":true,"lstrip":true,"rstrip":true,"normalized":true,"special":true})";
  }
  for (const char* normalizer :
       {"null", R"({"type":"Prepend","prepend":"0123456789012345678901234567890123456789"})"}) {
    measure(R"({"added_tokens":[)" + added + R"(],"normalizer":)" + normalizer +
            R"(,"model":{"vocab":{},"merges":[]}})");
  }
}

TEST(TokenizerMemory, StaysWithinTheBoundForLargeDescriptions) {
  const std::string model = R"(,"model":{"vocab":{},"merges":[]}})";
  std::string values, objects, nested;
  for (int i = 0; i < 4000; ++i) values += i > 0 ? ",0" : "0";
  for (int i = 0; i < 2000; ++i) {
    objects += (i > 0 ? ",\"" : "\"") + std::string("key number ") + std::to_string(i) + "\":0";
  }
  for (int i = 0; i < 1000; ++i) nested += i > 0 ? ",{\"a\":[0]}" : "{\"a\":[0]}";
  for (const std::string& x : {"[" + values + "]", "{" + objects + "}", "[" + nested + "]"}) {
    measure(R"({"normalizer":{"type":"Sequence","normalizers":[],"x":)" + x + "}" + model);
  }
  std::string splits;  // expressions as large as they may be together, with native code
  for (int i = 0; i < 7; ++i) {
    std::string regex = "(?i:";
    for (int k = 0; k < 75; ++k) {
      regex +=
          (k > 0 ? "|[^\\\\s\\\\p{L}]+w" : "[^\\\\s\\\\p{L}]+w") + std::to_string(i * 1000 + k);
    }
    splits += (i > 0 ? "," : "") + std::string(R"({"type":"Split","pattern":{"Regex":")") + regex +
              ")\"}" + R"(,"behavior":"Isolated","invert":false})";
  }
  const std::string file =
      R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[)" + splits + "]}" + model;
  const Use use = measure(file);
  std::printf("patterns: file %zu, peak %ld, all %ld, bound %ld\n", file.size(),
              static_cast<long>(use.peak), static_cast<long>(use.all),
              static_cast<long>(use.bound));
}

}  // namespace
}  // namespace headrace::engine
