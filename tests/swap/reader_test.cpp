// The reader's state machine against every fault that the simulation knows, in virtual time and on
// one thread: a failing schedule is one number.
#include "swap/reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <deque>
#include <functional>

#include "swap/simulated.h"
#include "tests/swap/pager_fixture.h"

namespace headrace::swap {
namespace {

constexpr std::byte kCanary{0xc5};
constexpr uint64_t kTurnsMax = 100'000;

// Targets with a block of canary on either side.
class Targets {
 public:
  Targets(size_t count, Bytes bytes_each)
      : each_(bytes_each + kBlock), room_(count * each_ + kBlock) {
    std::memset(room_.data(), static_cast<int>(kCanary), room_.size());
  }
  std::byte* at(size_t i) const { return room_.data() + kBlock + i * each_; }
  // Whether the memory from the end of the i-th target's `used` bytes to the next one is untouched.
  bool intact(size_t i, Bytes used) const {
    for (Bytes b = used; b < each_; ++b) {
      if (at(i)[b] != kCanary) return false;
    }
    return true;
  }

 private:
  Bytes each_;
  AlignedBuffer room_;
};

ChunkRead read_of(const ImageStore& store, uint32_t id, size_t which, std::byte* target) {
  const auto [object, chunk] = store.chunks()[which];
  const Extent& extent = store.extents(object)[chunk];
  return {.id = id,
          .file = extent.file,
          .offset = extent.offset,
          .bytes = extent.bytes,
          .digest = extent.digest,
          .object = object,
          .chunk = chunk,
          .target = target};
}

struct Totals {
  uint64_t injected = 0, faults[6] = {}, reads = 0, retries = 0, wrong = 0;
};

// One schedule; what it is, its seed decides.
class Schedule {
 public:
  explicit Schedule(uint64_t seed)
      : random_(seed),
        store_(random_, {.files = 1,
                         .objects_most = 4,
                         .chunks_most = 3,
                         .blocks_most = 24,
                         .image_bytes = 256 * kKiB}) {
    SimulatedFaults& f = simulated_.faults;
    // Swarm: about half of the faults are off in each schedule, so that those that hide others do
    // not hide them always.
    for (double* p : {&f.short_read, &f.error, &f.interrupted, &f.again, &f.bit_flip,
                      &f.misdirected, &f.stale, &f.stall}) {
      if (random_.chance(0.5)) *p = random_.uniform() * (random_.chance(0.2) ? 1.0 : 0.15);
    }
    if (random_.chance(0.2)) f.bad_block = 0.02;
    if (random_.chance(0.2)) f.rotten_block = 0.02;
    simulated_.seed = seed;
    simulated_.clock = &clock_;
    simulated_.counts = &counts_;
    simulated_.operations_max = static_cast<uint32_t>(random_.between(1, 12));
    simulated_.bytes_per_s = random_.chance(0.5) ? 0 : kGiB;
    simulated_.files = store_.images();
    options_ = {.bytes_in_flight = random_.between(1, 40) * kBlock,
                .request_bytes = random_.between(1, 16) * kBlock,
                .reads_max = 64,
                .operations_max = static_cast<uint32_t>(random_.between(1, 12)),
                .disk_rate = random_.chance(0.25) ? 100 * kMiB : 0,
                .store_uuid = store_.uuid()};
  }

  void run(Totals& totals) {
    const size_t count = random_.between(1, 24);
    const Targets targets(count, store_.most());
    std::vector<size_t> which(count);
    std::vector<int> ended(count, 0);
    std::vector<ChunkResult> results;
    {
      const auto backend = open_simulated(simulated_);
      Reader reader(*backend, clock_, options_);
      size_t added = 0;
      uint64_t turns = 0;
      while (added < count || !reader.idle()) {
        ASSERT_LT(++turns, kTurnsMax) << "does not end";
        for (; added < count && random_.chance(0.4); ++added) {
          which[added] = random_.below(store_.chunks().size());
          ChunkRead read =
              read_of(store_, static_cast<uint32_t>(added), which[added], targets.at(added));
          read.priority = random_.chance(0.3) ? Priority::kDemand : Priority::kPrefetch;
          reader.add(read);
        }
        const bool patient = !reader.idle() && random_.chance(0.5);
        reader.turn(patient ? kForever : random_.below(1'000'000), results);
        ASSERT_LE(reader.bytes_in_flight(),
                  std::max(options_.bytes_in_flight, options_.request_bytes));
      }
      ASSERT_EQ(backend->in_flight(), 0u);
      ASSERT_EQ(reader.bytes_in_flight(), 0u);
    }
    for (const ChunkResult& result : results) {
      ++ended[result.id];
      judge(result, which[result.id], targets, totals);
    }
    for (const int times : ended) ASSERT_EQ(times, 1);
    totals.reads += count;
    totals.injected += counts_.short_reads + counts_.errors + counts_.interrupted + counts_.again +
                       counts_.wrong() + counts_.stalls + counts_.bad_blocks;
  }

 private:
  // The bytes are looked at when all is over, so that a write after the result shows too.
  void judge(const ChunkResult& result, size_t which, const Targets& targets, Totals& totals) {
    const auto [object, chunk] = store_.chunks()[which];
    const auto truth = store_.truth(object, chunk);
    ++totals.faults[static_cast<size_t>(result.fault)];
    totals.retries += result.retries;
    ASSERT_TRUE(targets.intact(result.id, truth.size()));
    switch (result.fault) {
      case ReadFault::kNone:
        if (std::memcmp(targets.at(result.id), truth.data(), truth.size()) != 0) {
          ++totals.wrong;
          FAIL() << "wrong bytes were served";
        }
        break;
      case ReadFault::kCorrupt:
        ASSERT_GT(counts_.wrong(), 1u);
        ASSERT_EQ(result.checksum_failures, 2u);
        break;
      case ReadFault::kIo:
        ASSERT_GT(counts_.errors + counts_.bad_blocks, 1u);
        ASSERT_EQ(result.error, EIO);
        break;
      case ReadFault::kRefused:
        ASSERT_GT(counts_.interrupted + counts_.again, kAgainMax);
        break;
      case ReadFault::kTruncated:
        ASSERT_GT(counts_.short_reads, 1u);
        break;
      case ReadFault::kDropped:
        FAIL() << "nobody told it to stop";
      case ReadFault::kChanged:
        FAIL() << "a store's chunks are not compared with those of an earlier read";
    }
    if (result.fault == ReadFault::kIo || result.fault == ReadFault::kTruncated) {
      const Extent& extent = store_.extents(object)[chunk];
      ASSERT_GE(result.where, extent.offset);
      ASSERT_LT(result.where, extent.offset + extent.bytes);
    }
  }

  Random random_;
  VirtualClock clock_;
  ImageStore store_;
  SimulatedOptions simulated_;
  SimulatedCounts counts_;
  ReaderOptions options_;
};

TEST(Reader, ServesNoWrongByteUnderAnySchedule) {
  const uint64_t seed = test::seed();
  const uint64_t count = test::cases(10'000);
  Totals totals;
  for (uint64_t i = 0; i < count; ++i) {
    SCOPED_TRACE("HEADRACE_TEST_SEED=" + std::to_string(seed + i));
    Schedule(seed + i).run(totals);
    if (HasFatalFailure()) return;
  }
  std::printf(
      "%llu schedules, %llu reads, %llu faults injected, %llu retries; ended right %llu, "
      "truncated %llu, EIO %llu, refused %llu, corrupt %llu; served wrong %llu\n",
      static_cast<unsigned long long>(count), static_cast<unsigned long long>(totals.reads),
      static_cast<unsigned long long>(totals.injected),
      static_cast<unsigned long long>(totals.retries),
      static_cast<unsigned long long>(totals.faults[0]),
      static_cast<unsigned long long>(totals.faults[1]),
      static_cast<unsigned long long>(totals.faults[2]),
      static_cast<unsigned long long>(totals.faults[3]),
      static_cast<unsigned long long>(totals.faults[4]),
      static_cast<unsigned long long>(totals.wrong));
  // The schedules are worth something only if every way to end was met.
  if (count >= 1000) {
    for (size_t fault = 0; fault < 5; ++fault) EXPECT_GT(totals.faults[fault], 0u) << fault;
  }
}

TEST(Reader, TheSameSeedGivesTheSameRun) {
  const uint64_t seed = test::seed();
  Totals first, second;
  for (uint64_t i = 0; i < 50; ++i) Schedule(seed + i).run(first);
  for (uint64_t i = 0; i < 50; ++i) Schedule(seed + i).run(second);
  EXPECT_EQ(first.injected, second.injected);
  EXPECT_EQ(first.retries, second.retries);
  for (size_t fault = 0; fault < 6; ++fault) EXPECT_EQ(first.faults[fault], second.faults[fault]);
}

// Completes operations first or last in, with outcomes read off a number.
class Scripted final : public IoBackend {
 public:
  enum Outcome { kOk, kShort, kNothing, kEintr, kEio, kFlip, kOutcomes };

  Scripted(std::span<const std::byte> file, std::vector<Outcome> script, bool last_first)
      : file_(file), script_(std::move(script)), last_first_(last_first) {}

  IoCaps caps() const override { return {.name = "scripted"}; }
  size_t submit(std::span<const IoOp> ops) override {
    pending_.insert(pending_.end(), ops.begin(), ops.end());
    return ops.size();
  }
  void poll(size_t, uint64_t, std::vector<IoCompletion>& out) override {
    if (pending_.empty()) return;
    const IoOp op = last_first_ ? pending_.back() : pending_.front();
    last_first_ ? pending_.pop_back() : pending_.pop_front();
    const Outcome outcome = step_ < script_.size() ? script_[step_] : kOk;
    ++step_;
    int32_t result = static_cast<int32_t>(op.bytes);
    if (outcome == kShort) result = static_cast<int32_t>(op.bytes / 2);
    if (outcome == kNothing) result = 0;
    if (outcome == kEintr) result = -EINTR;
    if (outcome == kEio) result = -EIO;
    if (result > 0) std::memcpy(op.data, file_.data() + op.offset, static_cast<size_t>(result));
    if (outcome == kFlip) op.data[0] ^= std::byte{4};
    out.push_back({.user = op.user, .result = result});
  }
  size_t in_flight() const override { return pending_.size(); }
  void wake() override {}

 private:
  std::span<const std::byte> file_;
  std::vector<Outcome> script_;
  bool last_first_;
  std::deque<IoOp> pending_;
  size_t step_ = 0;
};

TEST(Reader, EndsRightForAllOutcomesOfSmallCases) {
  constexpr size_t kDepth = 5;
  const std::span<const std::byte> file = random_bytes();
  const AlignedBuffer target(2 * kBlock);
  const uint64_t digest = checksum(file.first(2 * kBlock), 1, 0, 0);
  VirtualClock clock;
  uint64_t codes = 1;
  for (size_t i = 0; i < kDepth; ++i) codes *= Scripted::kOutcomes;
  uint64_t right = 0;
  for (uint64_t code = 0; code < 2 * codes; ++code) {
    std::vector<Scripted::Outcome> script;
    uint64_t rest = code / 2;
    for (size_t i = 0; i < kDepth; ++i, rest /= Scripted::kOutcomes) {
      script.push_back(static_cast<Scripted::Outcome>(rest % Scripted::kOutcomes));
    }
    Scripted backend(file, script, code % 2 == 1);
    Reader reader(backend, clock,
                  {.request_bytes = kBlock, .reads_max = 1, .operations_max = 2, .store_uuid = 1});
    std::memset(target.data(), 0, target.size());
    reader.add({.bytes = 2 * kBlock, .digest = digest, .target = target.data()});
    std::vector<ChunkResult> results;
    for (int turn = 0; turn < 40 && !reader.idle(); ++turn) reader.turn(0, results);
    ASSERT_TRUE(reader.idle()) << code;
    ASSERT_EQ(results.size(), 1u) << code;
    ASSERT_EQ(backend.in_flight(), 0u) << code;
    const bool same = std::memcmp(target.data(), file.data(), target.size()) == 0;
    if (results[0].fault == ReadFault::kNone) {
      ASSERT_TRUE(same) << code;
      ++right;
    }
    // One fault of any kind is always survived.
    const auto faults = std::count_if(script.begin(), script.end(),
                                      [](auto outcome) { return outcome != Scripted::kOk; });
    ASSERT_TRUE(faults > 1 || results[0].fault == ReadFault::kNone) << code;
  }
  EXPECT_GT(right, codes / 4);
  EXPECT_LT(right, 2 * codes);
}

// A device with one block that cannot be read, in whatever request it lies.
class OneBadBlock final : public IoBackend {
 public:
  OneBadBlock(std::span<const std::byte> file, Bytes bad, uint64_t failures)
      : file_(file), bad_(bad), failures_(failures) {}
  IoCaps caps() const override { return {.name = "one bad block"}; }
  size_t submit(std::span<const IoOp> ops) override {
    for (const IoOp& op : ops) {
      const bool fails = op.offset <= bad_ && bad_ < op.offset + op.bytes && failed < failures_;
      failed += fails;
      ++operations;
      if (!fails) std::memcpy(op.data, file_.data() + op.offset, op.bytes);
      done_.push_back({op.user, fails ? -EIO : static_cast<int32_t>(op.bytes)});
    }
    return ops.size();
  }
  void poll(size_t, uint64_t, std::vector<IoCompletion>& out) override {
    out.insert(out.end(), done_.begin(), done_.end());
    done_.clear();
  }
  size_t in_flight() const override { return done_.size(); }
  void wake() override {}

  uint64_t operations = 0, failed = 0;

 private:
  std::span<const std::byte> file_;
  Bytes bad_;
  uint64_t failures_;
  std::vector<IoCompletion> done_;
};

TEST(Reader, NamesTheBlockThatCannotBeRead) {
  Random random(test::seed());
  const std::span<const std::byte> file = random_bytes();
  for (uint64_t i = 0; i < test::cases(100); ++i) {
    SCOPED_TRACE(i);
    const uint64_t blocks = random.between(1, 256);
    const Bytes bytes = blocks * kBlock, offset = random.below(64) * kBlock;
    const Bytes bad = offset + random.below(blocks) * kBlock;
    const uint64_t lasting = random.chance(0.5) ? ~0ull : random.between(0, 6);
    const AlignedBuffer target(bytes);
    VirtualClock clock;
    OneBadBlock backend(file, bad, lasting);
    const Bytes request = random.between(1, 300) * kBlock;
    Reader reader(backend, clock, {.request_bytes = request, .reads_max = 1, .store_uuid = 1});
    reader.add({.offset = offset,
                .bytes = bytes,
                .digest = checksum(file.subspan(offset, bytes), 1, 0, 0),
                .target = target.data()});
    std::vector<ChunkResult> results;
    for (int turn = 0; turn < 100 && !reader.idle(); ++turn) reader.turn(0, results);
    ASSERT_EQ(results.size(), 1u);
    // Halving takes as many steps as the request has bits, and none is taken twice.
    ASSERT_LT(backend.operations, (blocks * kBlock + request - 1) / request + 24);
    if (results[0].fault == ReadFault::kNone) {
      ASSERT_EQ(std::memcmp(target.data(), file.data() + offset, bytes), 0);
      ASSERT_LT(backend.failed, 7u);
    } else {
      ASSERT_EQ(results[0].fault, ReadFault::kIo);
      ASSERT_EQ(results[0].where, bad);
      ASSERT_GT(backend.failed, 1u);
    }
    if (lasting > 100) {
      ASSERT_EQ(results[0].fault, ReadFault::kIo);
    }
  }
}

TEST(Reader, ReadsRunsOfSeveralFilesPastTheEndOfOne) {
  Random random(test::seed());
  const ImageStore store(random, {.files = 3});
  for (uint64_t i = 0; i < test::cases(200); ++i) {
    SCOPED_TRACE(i);
    std::vector<FileRun> runs(random.between(1, 5));
    std::vector<std::byte> truth;
    auto images = store.images();
    const size_t last = random.below(images.size());  // this file ends early
    images[last] = images[last].first(images[last].size() - random.below(kBlock));
    for (FileRun& run : runs) {
      run.file = static_cast<uint32_t>(random.below(images.size()));
      run.bytes = random.between(1, 40) * kBlock;
      const Bytes blocks = (images[run.file].size() + kBlock - 1) / kBlock - run.bytes / kBlock;
      run.offset = (random.chance(0.5) ? blocks : random.below(blocks + 1)) * kBlock;
      const Bytes end = run.offset + run.bytes;
      run.missing = end - std::min<Bytes>(end, images[run.file].size());
      const auto there = images[run.file].subspan(run.offset, run.bytes - run.missing);
      truth.insert(truth.end(), there.begin(), there.end());
      truth.resize(truth.size() + run.missing);
    }
    const AlignedBuffer target(truth.size());
    std::memset(target.data(), 0xff, target.size());
    VirtualClock clock;
    const auto backend = open_simulated({.seed = i,
                                         .faults = {.short_read = 0.1, .interrupted = 0.1},
                                         .clock = &clock,
                                         .files = images});
    Reader reader(*backend, clock,
                  {.request_bytes = random.between(1, 20) * kBlock, .store_uuid = 1});
    reader.add({.bytes = truth.size(), .runs = runs, .target = target.data()});
    std::vector<ChunkResult> results;
    while (!reader.idle()) reader.turn(kForever, results);
    ASSERT_EQ(results.size(), 1u);
    if (results[0].fault == ReadFault::kTruncated) continue;  // short twice at one place
    ASSERT_EQ(results[0].fault, ReadFault::kNone);
    ASSERT_EQ(std::memcmp(target.data(), truth.data(), truth.size()), 0);
    ASSERT_EQ(results[0].digest, checksum(truth, 1, 0, 0));
  }
}

TEST(Reader, ADigestOfAnotherStoreFailsEveryChunk) {
  Random random(test::seed());
  const ImageStore store(random, {});
  VirtualClock clock;
  const auto backend = open_simulated({.clock = &clock, .files = store.images()});
  Reader reader(*backend, clock, {.store_uuid = store.uuid() + 1});
  const Targets targets(store.chunks().size(), store.most());
  for (uint32_t i = 0; i < store.chunks().size(); ++i) {
    reader.add(read_of(store, i, i, targets.at(i)));
  }
  std::vector<ChunkResult> results;
  while (!reader.idle()) reader.turn(kForever, results);
  ASSERT_EQ(results.size(), store.chunks().size());
  for (const ChunkResult& result : results) {
    EXPECT_EQ(result.fault, ReadFault::kCorrupt);
    EXPECT_EQ(result.retries, 1u);
  }
}

// Order in which reads end on a device that takes one request at a time.
std::vector<uint32_t> order_of(
    const std::function<void(Reader&, const std::function<ChunkRead(uint32_t, Priority)>&)>& add) {
  Random random(test::seed());
  const ImageStore store(random, {.objects_most = 1, .chunks_most = 1, .blocks_most = 1});
  VirtualClock clock;
  const auto backend = open_simulated({.clock = &clock, .files = store.images()});
  Reader reader(*backend, clock,
                {.bytes_in_flight = kBlock, .request_bytes = kBlock, .store_uuid = store.uuid()});
  const Targets targets(256, kBlock);
  add(reader, [&](uint32_t id, Priority priority) {
    ChunkRead read = read_of(store, id, 0, targets.at(id));
    read.priority = priority;
    return read;
  });
  std::vector<ChunkResult> results;
  while (!reader.idle()) reader.turn(kForever, results);
  std::vector<uint32_t> order;
  for (const ChunkResult& result : results) order.push_back(result.id);
  return order;
}

TEST(Reader, DemandOvertakesQueuedPrefetch) {
  const auto order = order_of([](Reader& reader, const auto& read) {
    for (uint32_t i = 0; i < 20; ++i) reader.add(read(i, Priority::kPrefetch));
    reader.add(read(20, Priority::kDemand));
  });
  EXPECT_EQ(order.front(), 20u);
  EXPECT_EQ(order[1], 0u);
}

TEST(Reader, PrefetchIsNotStarvedByDemand) {
  const auto order = order_of([](Reader& reader, const auto& read) {
    for (uint32_t i = 0; i < 4; ++i) reader.add(read(i, Priority::kPrefetch));
    for (uint32_t i = 4; i < 204; ++i) reader.add(read(i, Priority::kDemand));
  });
  uint32_t at = 0, seen = 0;
  for (const uint32_t id : order) {
    ++at;
    if (id >= 4) continue;
    ++seen;
    EXPECT_EQ(id, seen - 1);
    EXPECT_EQ(at, seen * (kDemandStreak + 1));
  }
  EXPECT_EQ(seen, 4u);
}

TEST(Reader, HoldsTheRateSmoothlyInVirtualTime) {
  constexpr Bytes kRate = 100'000'000;
  Random random(test::seed());
  const ImageStore store(random, {.objects_most = 2, .chunks_most = 4, .blocks_most = 256});
  VirtualClock clock;
  const auto backend = open_simulated({.clock = &clock, .files = store.images()});
  Reader reader(*backend, clock,
                {.request_bytes = 256 * kKiB, .disk_rate = kRate, .store_uuid = store.uuid()});
  const Targets targets(100, store.most());
  Bytes bytes = 0;
  for (uint32_t i = 0; i < 100; ++i) {
    const ChunkRead read = read_of(store, i, i % store.chunks().size(), targets.at(i));
    bytes += read.bytes;
    reader.add(read);
  }
  std::vector<ChunkResult> results;
  Bytes arrived = 0;
  while (!reader.idle()) {
    const size_t before = results.size();
    // Whoever holds the thread up now and then must not lower the rate.
    clock.advance_to(clock.now_ns() + random.below(2'000'000));
    reader.turn(kForever, results);
    for (size_t i = before; i < results.size(); ++i) {
      const ChunkRead read = read_of(store, 0, results[i].id % store.chunks().size(), nullptr);
      arrived += read.bytes;
      // Never ahead of the rate by more than a request, and behind by little more than latency.
      const double expected_s = static_cast<double>(arrived) / static_cast<double>(kRate);
      ASSERT_GT(clock.seconds(), expected_s - 0.003);
      ASSERT_LT(clock.seconds(), expected_s * 1.01 + 0.005);
    }
  }
  EXPECT_NEAR(clock.seconds(), static_cast<double>(bytes) / kRate, 0.02 * clock.seconds());
}

TEST(Reader, DroppedReadsEndAndThoseUnderWayAreAwaited) {
  Random random(test::seed());
  const ImageStore store(random, {});
  VirtualClock clock;
  const auto backend = open_simulated({.clock = &clock, .files = store.images()});
  Reader reader(
      *backend, clock,
      {.bytes_in_flight = 2 * kBlock, .request_bytes = kBlock, .store_uuid = store.uuid()});
  const Targets targets(32, store.most());
  for (uint32_t i = 0; i < 32; ++i) {
    reader.add(read_of(store, i, i % store.chunks().size(), targets.at(i)));
  }
  std::vector<ChunkResult> results;
  reader.turn(0, results);  // sends two requests and waits for none
  EXPECT_EQ(backend->in_flight(), 2u);
  reader.drop_queued(results);
  EXPECT_EQ(backend->in_flight(), 2u);
  EXPECT_FALSE(reader.idle());
  while (!reader.idle()) reader.turn(kForever, results);
  EXPECT_EQ(backend->in_flight(), 0u);
  EXPECT_EQ(results.size(), 32u);
}

}  // namespace
}  // namespace headrace::swap
