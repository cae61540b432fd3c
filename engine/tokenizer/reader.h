// Reads tokenizer.json in passes, without ever holding the file or a tree of it: the first pass
// counts, the second fills tables of exactly that size (a third reads merges that stand before the
// vocabulary). Only the small parts become JSON values, bounded in number and bytes.
#pragma once

#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "engine/tokenizer/added_tokens.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/vocabulary.h"

namespace headrace::engine {

inline constexpr Bytes kTokenizerFileBytesMax = 256 * kMiB;

struct TokenizerFile {
  Vocabulary vocabulary;
  BpeOptions model;
  std::vector<AddedToken> added;  // as in the file, ids and normal forms not filled in
  json::value normalizer, pre_tokenizer, post_processor, decoder;
};

// What reading a part refused, as an error of the whole file: "PATH: WHY; DO THIS".
Error tokenizer_error(const Error& error, const std::string& path);
// Throws Error with the path: kIo, kFormat, kUnsupported.
TokenizerFile read_tokenizer_file(const std::string& path);
// Size of the file; kIo when it is missing, kFormat when it is not a file or too large.
Bytes tokenizer_file_bytes(const std::string& path);

}  // namespace headrace::engine
