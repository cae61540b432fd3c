// Added tokens: strings that are found in the text before (or, where `normalized`, after)
// normalisation and become their id whatever the model would make of them. Const after
// construction.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/vocabulary.h"

namespace headrace::engine {

struct AddedToken {
  std::string content;
  std::string normal;  // its normalised form, where it is `normalized` and that differs
  uint32_t id = 0;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = false;   // matched in the normalised text, in its normalised form
  bool special = false;      // encode() can leave it unparsed
  bool hidden = false;       // decode() can skip it; filled in by AddedTokens

  const std::string& pattern() const { return normal.empty() ? content : normal; }
};

// A part of a text: an added token, or text that none was found in.
struct Section {
  size_t begin, end;
  const AddedToken* token;  // null: text
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // `tokens` in the order of the file, `normal` filled in. Gives them their ids as the library
  // that defines the format does: the vocabulary's where it has the token, else the next free one,
  // whatever the file says. Throws kFormat when two would match the same text.
  AddedTokens(std::vector<AddedToken> tokens, const Vocabulary& vocabulary);

  // Replaces `out` with sections that cover `text`: of the tokens that are normalized, or of those
  // that are not. The longest token at the leftmost place wins. Without parse_special, special
  // tokens are text.
  void split(std::string_view text, bool normalized, bool parse_special,
             std::vector<Section>& out) const;

  const AddedToken* find(uint32_t id) const;
  uint32_t id_end() const { return tokens_.empty() ? 0 : tokens_.back().id + 1; }

 private:
  struct Found {
    size_t size = 0;
    const AddedToken* token = nullptr;
  };
  using Index = std::vector<uint32_t>;  // into tokens_, sorted by pattern

  static Index index_of(const std::vector<AddedToken>& tokens, bool normalized);
  Found longest_at(std::string_view text, const Index& index) const;

  std::vector<AddedToken> tokens_;  // by id
  Index raw_, normal_;
};

}  // namespace headrace::engine
