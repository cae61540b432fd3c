// Scratch: what is written comes back bit for bit or not at all, whatever the disk does; nothing
// of it is left; bytes are counted as they move.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "swap/pager.h"
#include "swap/scratch.h"
#include "swap/simulated.h"
#include "tests/swap/crippled.h"
#include "tests/swap/pager_fixture.h"

namespace headrace::swap {
namespace {

constexpr Edge kIn{Tier::kDisk, Tier::kHost}, kOut{Tier::kHost, Tier::kDisk};

ScratchShape random_shape(Random& random) {
  return {.arrays = static_cast<uint32_t>(random.between(1, 4)),
          .blocks = static_cast<uint32_t>(random.between(1, 40)),
          .block_bytes = random.between(1, 20) * kBlock};
}

// Runs of blocks that are chosen at random, in ascending order.
std::vector<BlockRun> random_runs(Random& random, const std::vector<bool>& may) {
  std::vector<BlockRun> runs;
  for (uint32_t b = 0; b < may.size(); ++b) {
    if (!may[b] || random.chance(0.4)) continue;
    if (!runs.empty() && runs.back().first + runs.back().count == b) {
      ++runs.back().count;
    } else {
      runs.push_back({b, 1});
    }
  }
  return runs;
}

uint64_t blocks_of(const std::vector<BlockRun>& runs) {
  uint64_t sum = 0;
  for (const BlockRun& run : runs) sum += run.count;
  return sum;
}

// A scratch behind a pager, and beside it what its blocks must hold.
struct Rig {
  Rig(Random& random, const std::string& folder, const std::string& engine, bool simulated,
      const SimulatedFaults& faults = {})
      : store(random, {}), shape(random_shape(random)), scratch(folder, shape), made(random) {
    PagerOptions options{.engine = engine,
                         .bytes_in_flight = random.between(1, 64) * 64 * kKiB,
                         .request_bytes = random.between(1, 64) * kBlock,
                         .tickets_max = 16,
                         .scratch = &scratch};
    if (simulated) {
      image = std::make_unique<AlignedBuffer>(*shape.bytes());
      const std::vector<std::span<std::byte>> files{image->span()};  // the store has none here
      pager = make_pager(
          store,
          open_simulated(
              {.seed = random.next_u64(), .faults = faults, .files = files, .counts = &counts}),
          options);
    } else {
      store.write_files(folder);
      pager = make_pager(store, options);
    }
    for (uint32_t a = 0; a < shape.arrays; ++a) {
      truth.emplace_back(Bytes{shape.blocks} * shape.block_bytes);
      written.emplace_back(shape.blocks, false);
    }
  }

  void move(uint32_t array, Edge edge, const std::vector<BlockRun>& runs, std::byte* memory) {
    pager->wait(pager->start(
        {.object = array, .kind = Kind::kKv, .edge = edge, .target = memory, .blocks = runs}));
    moved[edge == kOut] += blocks_of(runs) * shape.block_bytes;
  }

  void step() {
    const auto array = static_cast<uint32_t>(made.below(shape.arrays));
    AlignedBuffer memory(Bytes{shape.blocks} * shape.block_bytes);
    const bool out = made.chance(0.5);
    const std::vector<bool> any(shape.blocks, true);
    const std::vector<BlockRun> runs = random_runs(made, out ? any : written[array]);
    if (runs.empty()) return;
    if (out) fill_chunk(memory.span(), made.next_u64(), array, 0);
    move(array, out ? kOut : kIn, runs, memory.data());
    for (const BlockRun& run : runs) {
      const Bytes at = run.first * shape.block_bytes, bytes = run.count * shape.block_bytes;
      if (out) {
        std::memcpy(truth[array].data() + at, memory.data() + at, bytes);
        std::fill_n(written[array].begin() + run.first, run.count, true);
      } else {
        ASSERT_EQ(0, std::memcmp(truth[array].data() + at, memory.data() + at, bytes));
      }
    }
  }

  ImageStore store;
  ScratchShape shape;
  Scratch scratch;
  Random made;
  SimulatedCounts counts;
  std::unique_ptr<AlignedBuffer> image;
  std::vector<std::vector<std::byte>> truth;
  std::vector<std::vector<bool>> written;
  Bytes moved[2] = {0, 0};
  std::unique_ptr<Pager> pager;  // goes first
};

TEST(Scratch, WhatIsWrittenComesBackAndIsCounted) {
  Random random(test::seed(), 1);
  for (uint64_t index = 0; index < test::cases(12); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const TempFolder folder;
    Rig rig(random, folder.path(), index % 2 == 0 ? "io_uring" : "pread", false);
    for (int i = 0; i < 30 && !HasFatalFailure(); ++i) rig.step();
    EXPECT_EQ(rig.pager->ledger().bytes(kIn, Kind::kKv), rig.moved[0]);
    EXPECT_EQ(rig.pager->ledger().bytes(kOut, Kind::kKv), rig.moved[1]);
  }
}

TEST(Scratch, AFaultyDiskGivesTheRightBytesOrAnError) {
  Random random(test::seed(), 2);
  uint64_t errors = 0, retries = 0, wrong = 0;
  for (uint64_t index = 0; index < test::cases(40); ++index) {
    SCOPED_TRACE(test::seed_note(index));
    const TempFolder folder;
    const SimulatedFaults faults{.short_read = 0.1,
                                 .error = 0.01,
                                 .interrupted = 0.05,
                                 .again = 0.05,
                                 .bit_flip = 0.02,
                                 .misdirected = 0.01,
                                 .stale = 0.01,
                                 .rotten_block = index % 4 == 0 ? 0.01 : 0};
    Rig rig(random, folder.path(), "auto", true, faults);
    try {
      for (int i = 0; i < 20 && !HasFatalFailure(); ++i) rig.step();
    } catch (const Error& error) {
      ++errors;
      EXPECT_TRUE(error.code() == ErrorCode::kIo || error.code() == ErrorCode::kCorrupt)
          << error.what();
    }
    retries += rig.pager->counters().retries;
    rig.pager.reset();
    wrong += rig.counts.wrong();
  }
  EXPECT_GT(errors, 0u);
  EXPECT_GT(retries, 0u);
  EXPECT_GT(wrong, 0u);
}

TEST(Scratch, ABlockThatWasNeverWrittenIsAnError) {
  Random random(test::seed(), 3);
  const TempFolder folder;
  Rig rig(random, folder.path(), "pread", false);
  AlignedBuffer memory(Bytes{rig.shape.blocks} * rig.shape.block_bytes);
  const std::vector<BlockRun> first{{0, 1}};
  try {
    rig.move(0, kIn, first, memory.data());
    FAIL() << "nothing was ever written there";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt) << error.what();
  }
}

TEST(Scratch, MoreThanTheDiskHasIsRefusedWithItsBytes) {
  const TempFolder folder;
  const ScratchShape shape{.arrays = 1 << 20, .blocks = 1 << 20, .block_bytes = kBlock};
  try {
    const Scratch scratch(folder.path(), shape);
    FAIL() << "no disk has that much";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInfeasible) << error.what();
    EXPECT_EQ(error.required_bytes(), *shape.bytes());
  }
}

TEST(Scratch, NothingIsLeftNotEvenAfterAKill) {
  const TempFolder folder;
  int ready[2];
  ASSERT_EQ(0, pipe(ready));
  const pid_t child = fork();
  if (child == 0) {
    Scratch scratch(folder.path(), {.arrays = 2, .blocks = 64, .block_bytes = 64 * kKiB});
    AlignedBuffer data(kMiB);
    const bool wrote = pwrite(scratch.descriptor(), data.data(), kMiB, 0) == ssize_t{kMiB};
    [[maybe_unused]] const ssize_t told = write(ready[1], wrote ? "y" : "n", 1);
    pause();
    _exit(0);
  }
  char answer = 0;
  ASSERT_EQ(1, read(ready[0], &answer, 1));
  EXPECT_EQ(answer, 'y');
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  close(ready[0]), close(ready[1]);
}

// A filesystem may take the flag for direct I/O and refuse what is transferred with it.
TEST(Scratch, LeavesDirectIoWhereTransfersAreRefused) {
  const TempFolder folder;
  const std::string got = in_child([&]() -> std::string {
    forbid(SYS_pread64, EINVAL);
    return Scratch(folder.path(), {.arrays = 1, .blocks = 2, .block_bytes = kBlock}).direct()
               ? "direct"
               : "buffered";
  });
  EXPECT_EQ(got, "buffered");
}

TEST(Scratch, NoFileThatWasLeftIsInTheWayWhereAllHaveNames) {
  const TempFolder folder;
  const std::string got = in_child([&] {
    std::ofstream(folder / (".scratch-" + std::to_string(getpid()))) << "left";
    forbid(SYS_openat, EOPNOTSUPP, O_TMPFILE & ~O_DIRECTORY);
    const Scratch scratch(folder.path(), {.arrays = 1, .blocks = 2, .block_bytes = kBlock});
    const AlignedBuffer data(kBlock);
    return std::to_string(pwrite(scratch.descriptor(), data.data(), kBlock, 0));
  });
  EXPECT_EQ(got, std::to_string(kBlock));
  const std::filesystem::directory_iterator files(folder.path());
  EXPECT_EQ(std::distance(files, {}), 1) << "the name goes at once";
}

}  // namespace
}  // namespace headrace::swap
