// The sealed store: objects of a model in kernel layout, in page-aligned extents of one
// preallocated file, each chunk with a checksum that is checked on every read. Written once, then
// only read; bytes on disk are described in docs/format/store.md. What an object means is none of
// the store's business: its maker puts that into `metadata`, an opaque text.
//
// A folder `DIR` holds `super` (two 4 KiB slots, A and B), `manifest.<generation>` and `data.0`. A
// store is complete once its superblock names a manifest whose digest matches; anything else is an
// unfinished one and is rebuilt. An flock on `lock` keeps a second writer out (readers share it).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/spec.h"
#include "core/tier.h"
#include "swap/io.h"

namespace headrace::swap {

inline constexpr uint32_t kStoreVersion = 1;

struct Extent {
  uint32_t file = 0;
  Bytes offset = 0;
  Bytes bytes = 0;      // a multiple of kBlock
  uint64_t digest = 0;  // checksum() of the bytes
};

// Bytes of a file at block boundaries. A file may end less than a block before its last run does:
// those bytes are `missing`, and zero in memory.
struct FileRun {
  uint32_t file = 0;
  Bytes offset = 0;
  Bytes bytes = 0;
  Bytes missing = 0;
};

// XXH3-64 seeded with (store uuid, object, chunk): a misdirected, stale or foreign chunk fails too.
uint64_t checksum(std::span<const std::byte> data, uint64_t store_uuid, ObjectId object,
                  uint32_t chunk);

struct StoreInfo {  // `store list`
  std::string path;
  std::string fingerprint;  // of the source: what must match for the store to be used again
  std::string source;       // the model folder it was made from
  Bytes bytes = 0;
  int64_t created_unix_s = 0;
  uint32_t version = 0;
  bool complete = false;
};

// Chunks that lie on disk in another form than in memory: what is read for one, and how it becomes
// the chunk. The pager reads into room of its own and unpacks from there.
class Unpacking {
 public:
  virtual ~Unpacking() = default;
  // What is read for a chunk, in the order in which it comes to lie in memory.
  virtual std::span<const FileRun> runs(ObjectId object, uint32_t chunk) const = 0;
  virtual Bytes read_bytes(ObjectId object, uint32_t chunk) const = 0;  // of all its runs
  virtual Bytes read_bytes_most() const = 0;                            // of any chunk
  // On the pager's thread: throws nothing, allocates nothing.
  virtual void unpack(ObjectId object, uint32_t chunk, const std::byte* read,
                      std::byte* target) const = 0;
};

class Store {
 public:
  // Opens a complete store. Throws kFormat (damaged, unfinished, older: it may be made anew),
  // kUnsupported (a newer version made it: it must stay), kIo, or kFailed when another process is
  // writing it. Reads super and manifest with direct I/O.
  static std::unique_ptr<Store> open(const std::string& folder);
  virtual ~Store() = default;

  virtual const StoreInfo& info() const = 0;
  virtual uint64_t uuid() const = 0;
  virtual std::string_view metadata() const = 0;
  virtual size_t objects() const = 0;
  virtual std::span<const Extent> extents(ObjectId object) const = 0;  // by chunk
  virtual const IoFiles& files() const = 0;
  virtual std::string file_path(uint32_t file) const;  // of files(), for messages
  // Null where extents are read into their chunks as they are. Otherwise extents tell the chunks'
  // bytes in memory, and their digests are of no use: the first read of a chunk makes its own.
  virtual const Unpacking* unpacking() const { return nullptr; }
  virtual Bytes metadata_bytes_read() const = 0;  // what opening it read, aligned
};

struct StoreSpec {
  std::string fingerprint, source, metadata;
  std::span<const ObjectSpec> objects;  // ids dense from 0
};

// Bytes that a store of these objects takes on disk, metadata included: checked before anything is
// made.
Bytes store_bytes(const StoreSpec& spec);

class StoreWriter {
 public:
  // Makes (or replaces an unfinished or outdated) store in `folder`, preallocates. Throws kIo
  // (ENOSPC names the bytes that are missing) and kFailed when the folder is locked by another
  // process.
  static std::unique_ptr<StoreWriter> create(const std::string& folder, const StoreSpec& spec);
  virtual ~StoreWriter() =
      default;  // without commit(): nothing of the unfinished store stays behind

  // `data` holds exactly the chunk's bytes; kBlock-aligned. Chunks come in any order, each once.
  virtual void write(ObjectId object, uint32_t chunk, std::span<const std::byte> data) = 0;
  virtual void commit() = 0;  // flush data and manifest, then the superblock, then flush again
};

std::vector<StoreInfo> list_stores(const std::string& root);  // folders below root, broken ones too
// Reads every byte; returns the damaged chunks as text, one a line. `progress(done, total)` may be
// null.
std::vector<std::string> verify_store(const std::string& folder, void (*progress)(Bytes, Bytes));
void remove_store(
    const std::string& folder);  // refuses a folder that is not a store, or one in use

}  // namespace headrace::swap
