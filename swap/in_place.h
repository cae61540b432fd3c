// Chunks read from files that others made, where they lie: no second copy on the disk. The engine
// says which bytes of which files a chunk is made of and how; here they become aligned reads.
//
// Such files carry no checksums, so the pager keeps what the first read of a chunk hashed to, and a
// first read counts only while its file is the one that was opened: same size, same times.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "swap/store.h"

namespace headrace::swap {

struct FileSpan {  // any bytes of a file
  uint32_t file = 0;
  Bytes offset = 0;
  Bytes bytes = 0;
};

struct InPlaceChunk {
  Bytes bytes = 0;              // in memory, a multiple of kBlock
  std::vector<FileSpan> spans;  // what it is made of; at least one, none empty
};

struct InPlaceFile {
  std::string path;  // links are followed
  Bytes bytes = 0;   // what it must still have
  int64_t mtime_ns = 0, ctime_ns = 0;
};

struct InPlaceSpec {
  std::string folder, fingerprint;  // as StoreInfo says them
  std::vector<InPlaceFile> files;
  std::vector<std::vector<InPlaceChunk>> objects;  // [object][chunk]
  // Makes a chunk of its spans, which come in their order. As Unpacking::unpack.
  std::function<void(ObjectId, uint32_t chunk, std::span<const std::byte* const> spans,
                     std::byte* target)>
      make;
};

// What tells a first read that may be believed from one that may not: false once a file that the
// chunk is read from is not as it was when it was opened.
class FileWatch {
 public:
  virtual ~FileWatch() = default;
  virtual bool unchanged(ObjectId object, uint32_t chunk) const = 0;
};

// Bytes that reading these spans moves: whole blocks, those that two spans share once where the
// second follows the first.
Bytes aligned_bytes(std::span<const FileSpan> spans);

// Throws kIo, and kFailed when a file is not the one that the spec tells of.
std::unique_ptr<Store> open_in_place(InPlaceSpec spec);

}  // namespace headrace::swap
