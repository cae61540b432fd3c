// Stands between the store and the system calls of one folder, inside the test's own process: keeps
// a log of what was asked of the disk and in which order, builds every folder that a power failure
// could leave behind, and makes the n-th call fail. A program that links disk_recorder.cpp has its
// open, unlink, pread, pwrite, fallocate, fdatasync and fsync replaced. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/tier.h"

namespace headrace::swap {

enum class DiskCall : uint8_t { kOpen, kUnlink, kRead, kWrite, kReserve, kSyncFile, kSyncFolder };
inline constexpr size_t kDiskCalls = 7;

struct DiskOp {
  enum class Kind : uint8_t { kCreate, kUnlink, kResize, kWrite, kSyncFile, kSyncFolder };
  Kind kind;
  std::string name;   // of the file in the folder
  uint64_t file = 0;  // identity: a name that is removed and made again is another file
  Bytes offset = 0;   // kWrite
  Bytes size = 0;     // kResize
  std::string bytes;  // kWrite
};

// What a disk holds.
struct DiskImage {
  std::map<std::string, uint64_t> names;
  std::map<uint64_t, std::string> files;
};
DiskImage image_of(const std::string& folder);                        // the lock file left out
void make_folder(const DiskImage& image, const std::string& folder);  // replaces what is there

// Watches calls that touch `folder`, whose files are those of `base`.
void start_recording(const std::string& folder, const DiskImage& base);
std::vector<DiskOp> stop_recording();

// The n-th (from 0) watched call of a kind fails with `error`, once; error 0: it moves half of what
// it was asked for. Returns nothing; fault_fired() tells whether it was reached.
void inject_fault(DiskCall call, uint64_t nth, int error);
bool fault_fired();

// A crash after the first `done` operations: what was flushed is there, of the rest any subset.
// unflushed() counts that rest, in sectors of 512 bytes and single changes of names and sizes.
size_t unflushed(const std::vector<DiskOp>& log, size_t done);
DiskImage crash_image(const DiskImage& base, const std::vector<DiskOp>& log, size_t done,
                      const std::vector<bool>& kept);  // [unflushed]

}  // namespace headrace::swap
