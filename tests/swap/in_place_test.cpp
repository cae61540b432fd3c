// Chunks made of other people's files: the right bytes whatever the offsets, counted as the aligned
// reads that were predicted, and an error as soon as a file is not what it was.
#include "swap/in_place.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>

#include "core/arena.h"
#include "swap/file.h"
#include "swap/unpacker.h"
#include "tests/swap/pager_fixture.h"

namespace headrace::swap {
namespace {

using ::testing::HasSubstr;

InPlaceFile stat_of(const std::string& path) {
  struct stat s {};
  EXPECT_EQ(stat(path.c_str(), &s), 0);
  return {.path = path,
          .bytes = static_cast<Bytes>(s.st_size),
          .mtime_ns = s.st_mtim.tv_sec * 1'000'000'000 + s.st_mtim.tv_nsec,
          .ctime_ns = s.st_ctim.tv_sec * 1'000'000'000 + s.st_ctim.tv_nsec};
}

// Random files, and chunks of random spans of them; a chunk is its spans, each reversed, and zeros.
struct Model {
  TempFolder folder;
  std::vector<std::vector<std::byte>> contents;
  InPlaceSpec spec;
  Bytes chunk_most = kBlock;

  explicit Model(Random& random) {
    const size_t files = random.between(1, 3);
    for (size_t i = 0; i < files; ++i) {
      const auto bytes = random_bytes().subspan(i * 100, random.between(kBlock, 600 * kKiB));
      contents.emplace_back(bytes.begin(), bytes.end());
      const std::string path = folder / ("shard-" + std::to_string(i));
      std::FILE* file = std::fopen(path.c_str(), "wb");
      EXPECT_EQ(std::fwrite(bytes.data(), 1, bytes.size(), file), bytes.size());
      EXPECT_EQ(std::fclose(file), 0);
      spec.files.push_back(stat_of(path));
    }
    spec.objects.resize(random.between(1, 4));
    for (auto& chunks : spec.objects) {
      chunks.resize(random.between(1, 4));
      for (InPlaceChunk& chunk : chunks) fill(random, chunk);
    }
    spec.folder = folder.path();
    spec.make = [this](ObjectId object, uint32_t c, std::span<const std::byte* const> spans,
                       std::byte* target) {
      const InPlaceChunk& chunk = spec.objects[object][c];
      std::byte* out = target;
      for (size_t i = 0; i < spans.size(); ++i) {
        out = std::reverse_copy(spans[i], spans[i] + chunk.spans[i].bytes, out);
      }
      std::memset(out, 0, static_cast<size_t>(target + chunk.bytes - out));
    };
  }

  void fill(Random& random, InPlaceChunk& chunk) {
    Bytes sum = 0;
    FileSpan last{.file = kNone};
    for (uint64_t i = random.between(1, 5); i > 0; --i) {
      FileSpan span{.file = static_cast<uint32_t>(random.below(contents.size()))};
      const Bytes size = contents[span.file].size();
      span.offset = random.below(size);
      // Often right behind the one before, and often up to the file's end.
      const Bytes end = last.offset + last.bytes;
      if (last.file != kNone && random.chance(0.5) && end < contents[last.file].size()) {
        span = {
            .file = last.file,
            .offset = end + random.below(std::min<Bytes>(3000, contents[last.file].size() - end))};
      }
      const Bytes left = contents[span.file].size() - span.offset;
      span.bytes = random.chance(0.3) ? left : random.between(1, left);
      chunk.spans.push_back(span);
      sum += span.bytes;
      last = span;
    }
    chunk.bytes = round_up(sum, kBlock);
    chunk_most = std::max(chunk_most, chunk.bytes);
  }

  std::vector<std::byte> truth(ObjectId object, uint32_t c) const {
    const InPlaceChunk& chunk = spec.objects[object][c];
    std::vector<std::byte> out;
    for (const FileSpan& span : chunk.spans) {
      const auto from = contents[span.file].begin() + static_cast<ptrdiff_t>(span.offset);
      out.insert(out.end(), std::make_reverse_iterator(from + static_cast<ptrdiff_t>(span.bytes)),
                 std::make_reverse_iterator(from));
    }
    out.resize(chunk.bytes);
    return out;
  }
};

TEST(InPlace, GivesTheRightBytesAndCountsWhatItPredicts) {
  Random random(test::seed());
  for (uint64_t i = 0; i < test::cases(25); ++i) {
    SCOPED_TRACE(i);
    Model model(random);
    const auto store = open_in_place(model.spec);
    const Bytes most = store->unpacking()->read_bytes_most();
    const Arena room(unpacking_room(most, random.between(1, 4) * most));
    const Arena target(8 * model.chunk_most);
    const auto pager = make_pager(
        *store, {.engine = random.chance(0.5) ? "auto" : "pread",
                 .request_bytes = random.between(1, 64) * kBlock,
                 .tickets_max = 16,
                 .room = room.span(0, random.chance(0.5) ? round_up(most, kBlock) : room.size())});
    Bytes predicted = 0;
    for (int round = 0; round < 3; ++round) {
      std::vector<std::pair<ObjectId, uint32_t>> picks(8);
      std::vector<Ticket> tickets;
      for (size_t t = 0; t < picks.size(); ++t) {
        const auto object = static_cast<ObjectId>(random.below(model.spec.objects.size()));
        const auto& chunks = model.spec.objects[object];
        picks[t] = {object, static_cast<uint32_t>(random.below(chunks.size()))};
        predicted += aligned_bytes(chunks[picks[t].second].spans);
        tickets.push_back(pager->start(
            {.object = object,
             .chunk = picks[t].second,
             .target = target.data() + t * model.chunk_most,
             .priority = random.chance(0.3) ? Priority::kDemand : Priority::kPrefetch}));
      }
      for (size_t t = 0; t < picks.size(); ++t) {
        pager->wait(tickets[t]);
        const auto truth = model.truth(picks[t].first, picks[t].second);
        ASSERT_EQ(std::memcmp(target.data() + t * model.chunk_most, truth.data(), truth.size()), 0);
      }
    }
    EXPECT_EQ(pager->ledger().bytes({Tier::kDisk, Tier::kHost}, Kind::kWeights), predicted);
    EXPECT_EQ(pager->counters().retries, 0u);
  }
}

// What the pager says of chunk 0 after `change` was done to its file; once read before, or never.
Error error_after(bool read_before, const std::function<void(const std::string& path)>& change) {
  Random random(test::seed());
  Model model(random);
  model.spec.objects = {{{.bytes = 8 * kBlock, .spans = {{.offset = 5, .bytes = kBlock}}}}};
  const auto store = open_in_place(model.spec);
  const Arena room(unpacking_room(store->unpacking()->read_bytes_most(), kMiB));
  const Arena target(kMiB);
  const auto pager = make_pager(*store, {.room = room.span(0, room.size())});
  if (read_before) pager->wait(pager->start({.target = target.data()}));
  change(model.spec.files[0].path);
  try {
    pager->wait(pager->start({.target = target.data()}));
  } catch (const Error& error) {
    EXPECT_EQ(error.path(), model.spec.files[0].path);
    return error;
  }
  ADD_FAILURE() << "nothing was noticed";
  return Error(ErrorCode::kFailed, "");
}

// Writes one byte over the file's 100th; `keep_times` puts its modification time back.
void overwrite(const std::string& path, bool keep_times) {
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // older kernels' times are as coarse
  struct stat before {};
  ASSERT_EQ(stat(path.c_str(), &before), 0);
  std::FILE* file = std::fopen(path.c_str(), "r+b");
  ASSERT_EQ(std::fseek(file, 100, SEEK_SET), 0);
  const int was = std::fgetc(file);
  ASSERT_EQ(std::fseek(file, 100, SEEK_SET), 0);
  ASSERT_NE(std::fputc(was ^ 1, file), EOF);
  ASSERT_EQ(std::fclose(file), 0);
  if (!keep_times) return;
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

TEST(InPlace, AFileThatChangesUnderARunIsAnError) {
  for (const bool keep_times : {false, true}) {
    for (const bool read_before : {false, true}) {
      SCOPED_TRACE(read_before);
      const Error error =
          error_after(read_before, [&](const std::string& path) { overwrite(path, keep_times); });
      EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
      EXPECT_THAT(error.what(), HasSubstr("changed"));
    }
  }
}

// Neither of two first reads has a digest to be held to when it leaves.
TEST(InPlace, TwoFirstReadsAtATimeMustAgree) {
  Random random(test::seed());
  const Model model(random);
  const auto store = open_in_place(model.spec);
  const Arena room(3 * round_up(store->unpacking()->read_bytes_most(), kBlock));
  const Arena target(model.chunk_most);
  for (const uint64_t second : {1, 2}) {
    Unpacker unpacker(*store, room.span(0, room.size()), 2);
    ChunkRead reads[2] = {{.id = 0}, {.id = 1}};
    for (ChunkRead& read : reads) unpacker.place(read);
    for (const ChunkRead& read : reads) EXPECT_FALSE(read.digest);
    ChunkResult results[2] = {{.id = 0, .digest = 1}, {.id = 1, .digest = second}};
    for (ChunkResult& result : results) unpacker.finish(result, 0, 0, target.data());
    EXPECT_EQ(results[0].fault, ReadFault::kNone);
    EXPECT_EQ(results[1].fault, second == 1 ? ReadFault::kNone : ReadFault::kChanged);
    unpacker.place(reads[0]);
    EXPECT_EQ(reads[0].digest, 1u) << "the first holds";
  }
}

TEST(InPlace, AFileThatIsCutUnderARunIsAnError) {
  const Error error =
      error_after(true, [](const std::string& path) { ASSERT_EQ(truncate(path.c_str(), 100), 0); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.what(), HasSubstr("truncated"));
}

TEST(InPlace, AFileThatIsNotTheOneThatWasDescribedIsRefused) {
  Random random(test::seed());
  Model model(random);
  overwrite(model.spec.files[0].path, true);
  EXPECT_THROW(open_in_place(model.spec), Error);
}

TEST(InPlace, SpansThatShareABlockAreReadOnce) {
  const FileSpan one{.offset = 10, .bytes = 100}, same{.offset = 200, .bytes = 100};
  const FileSpan next{.offset = 5000, .bytes = 10}, far{.offset = 20000, .bytes = 10};
  const FileSpan other{.file = 1, .offset = 200, .bytes = 100};
  EXPECT_EQ(aligned_bytes(std::vector{one}), kBlock);
  EXPECT_EQ(aligned_bytes(std::vector{one, same}), kBlock);
  EXPECT_EQ(aligned_bytes(std::vector{one, same, next}), 2 * kBlock);
  EXPECT_EQ(aligned_bytes(std::vector{one, far}), 2 * kBlock);
  EXPECT_EQ(aligned_bytes(std::vector{one, other}), 2 * kBlock);
  EXPECT_EQ(aligned_bytes(std::vector{same, one}), 2 * kBlock);  // backwards: read apart
}

}  // namespace
}  // namespace headrace::swap
