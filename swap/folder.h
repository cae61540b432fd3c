// The folder of a store: which files are a store's, who may touch them now, and what its superblock
// says. Shared by everything that opens, makes, lists or removes stores.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/tier.h"
#include "swap/manifest.h"

namespace headrace::swap {

std::string plain_folder(const std::string& folder);  // without slashes at its end

enum class LockMode : uint8_t { kShared, kExclusive };

// An flock on FOLDER/lock, held while it lives. It names its writer's process, so that whoever
// finds it taken can say whom to wait for; the kernel frees it when the process dies.
class FolderLock {
 public:
  FolderLock() = default;
  // Never waits: kFailed names the process when another one has it. A shared lock is none at all
  // where it cannot be had: on a filesystem that is read-only, full or without locks.
  static FolderLock take(const std::string& folder, LockMode mode);
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;
  void release();

 private:
  int descriptor_ = -1;
  LockMode mode_ = LockMode::kShared;
};

// What is in the folder, by name only.
struct FolderContent {
  std::vector<std::string> own;  // names of the store's files, `lock` left out
  bool has_lock = false;
  std::string foreign;  // the name of one entry that is not a store's file, or empty
  Bytes bytes = 0;      // lengths of `own` in sum
  Bytes blocks = 0;     // what they take on the disk
};

// nullopt when there is no such folder.
std::optional<FolderContent> look_at_folder(const std::string& folder);

struct SuperRead {
  std::array<SlotState, 2> states{};
  std::array<Superblock, 2> slots{};
  std::vector<Superblock> candidates;  // the valid ones, newest first, equal ones once
  Bytes bytes_read = 0;
};

// Reads FOLDER/super with direct I/O; kFormat when it does not have two slots.
SuperRead read_super(const std::string& folder);

// Removes the files named `own`; durable when it returns, so that what is made next cannot meet a
// superblock of before. Any part of them gone makes an unusable store, never a wrong one.
void remove_files(const std::string& folder, const std::vector<std::string>& own);

}  // namespace headrace::swap
