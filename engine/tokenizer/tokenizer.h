// Text to token ids and back, as a Hugging Face tokenizer.json says: byte-level BPE (GPT-2, Llama
// 3, Qwen) and byte-fallback BPE (Llama 2, Mistral, Mixtral). Equal to the `tokenizers` library on
// every input, invalid UTF-8 included (it is replaced by U+FFFD first). What tokenizer.json asks
// for beyond these is refused by name; its truncation and padding are for batches of training and
// are left out here. Const after loading: any number of threads may encode and decode.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tier.h"

namespace headrace::engine {

struct EncodeOptions {
  bool add_special = true;    // what the post-processor adds (BOS)
  bool parse_special = true;  // special added tokens in the text are recognised; false: plain text
};

// A decoding under way. What push() and finish() append in all is decode() of the ids.
class Decoding {
 public:
  virtual ~Decoding() = default;
  virtual void push(int32_t id, std::string& out) = 0;
  virtual void finish(std::string& out) = 0;
};

class Tokenizer {
 public:
  // Reads `folder`/tokenizer.json. Throws kFormat, kUnsupported (naming the part), kIo when
  // missing.
  static std::unique_ptr<Tokenizer> load(const std::string& folder);
  // What load() allocates at any moment at most, and so what stays resident, known before anything
  // is parsed: from the file's size.
  static Bytes memory_bound(const std::string& folder);
  virtual ~Tokenizer() = default;

  virtual std::vector<int32_t> encode(std::string_view text,
                                      const EncodeOptions& options = {}) const = 0;
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special = true) const = 0;
  // Holds back what a later id can still change; must not outlive the tokenizer.
  virtual std::unique_ptr<Decoding> start_decoding(bool skip_special = true) const = 0;
  // As in the vocabulary: "Ġthe", "<0x0A>"; "" for none.
  virtual std::string token(int32_t id) const = 0;
  virtual size_t vocabulary_size() const = 0;  // highest id + 1
};

// Decodes token by token: what next() returned so far plus finish() is decode() of all ids. Holds
// text back until it is complete UTF-8 that later tokens cannot change; a token costs the same
// however many came before.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, bool skip_special = true);
  std::string next(int32_t id);
  std::string finish();

 private:
  std::unique_ptr<Decoding> decoding_;
};

}  // namespace headrace::engine
