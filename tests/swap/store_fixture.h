// What the tests of the store share: folders that vanish, objects of random shape, chunks whose
// bytes are a function of a seed, and reading a store back chunk by chunk.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "swap/file.h"
#include "swap/store.h"
#include "tests/support/seed.h"

namespace headrace::swap {

class TempFolder {
 public:
  explicit TempFolder(const std::string& base = std::filesystem::temp_directory_path()) {
    std::string pattern = base + "/headrace_store_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::vector<ObjectSpec> random_objects(Random& random, uint32_t most_objects,
                                              uint32_t most_chunks, uint32_t most_blocks) {
  std::vector<ObjectSpec> objects(random.between(1, most_objects));
  for (ObjectId id = 0; id < objects.size(); ++id) {
    objects[id].id = id;
    objects[id].name = "object." + std::to_string(id);
    objects[id].chunks.resize(random.below(most_chunks + 1));  // none is allowed
    for (Bytes& bytes : objects[id].chunks) bytes = random.between(1, most_blocks) * kBlock;
  }
  return objects;
}

// The bytes of a chunk; no two chunks have the same.
inline void fill_chunk(std::span<std::byte> out, uint64_t seed, ObjectId object, uint32_t chunk) {
  Random random(seed, uint64_t{object} << 32 | chunk);
  for (size_t i = 0; i < out.size(); i += 8) {
    const uint64_t value = random.next_u64();
    std::memcpy(out.data() + i, &value, 8);
  }
}

inline void write_chunks(StoreWriter& writer, std::span<const ObjectSpec> objects, uint64_t seed) {
  for (const ObjectSpec& object : objects) {
    for (uint32_t chunk = 0; chunk < object.chunks.size(); ++chunk) {
      const AlignedBuffer buffer(object.chunks[chunk]);
      fill_chunk(buffer.span(), seed, object.id, chunk);
      writer.write(object.id, chunk, buffer.span());
    }
  }
}

inline void make_store(const std::string& folder, const StoreSpec& spec, uint64_t seed) {
  auto writer = StoreWriter::create(folder, spec);
  write_chunks(*writer, spec.objects, seed);
  writer->commit();
}

// Reads every chunk of an open store and compares it with what fill_chunk gives.
inline void expect_content(const Store& store, std::span<const ObjectSpec> objects, uint64_t seed) {
  ASSERT_EQ(store.objects(), objects.size());
  File file = File::open(store.info().path + "/data.0");
  for (const ObjectSpec& object : objects) {
    const auto extents = store.extents(object.id);
    ASSERT_EQ(extents.size(), object.chunks.size());
    for (uint32_t chunk = 0; chunk < extents.size(); ++chunk) {
      ASSERT_EQ(extents[chunk].bytes, object.chunks[chunk]);
      const AlignedBuffer got(extents[chunk].bytes), want(extents[chunk].bytes);
      file.read(got.span(), extents[chunk].offset);
      fill_chunk(want.span(), seed, object.id, chunk);
      ASSERT_EQ(std::memcmp(got.data(), want.data(), got.size()), 0) << object.id << "." << chunk;
      ASSERT_EQ(checksum(got.span(), store.uuid(), object.id, chunk), extents[chunk].digest);
    }
  }
}

inline std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_all(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// The error that `body` throws; fails the test when it throws none.
template <typename Body>
Error error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error was thrown";
  return Error(ErrorCode::kFailed, "");
}

}  // namespace headrace::swap
