#include "engine/tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "engine/tokenizer/unicode.h"

namespace headrace::engine {
namespace {

// Gives each token its id and returns them by id, the last of those that share one.
std::vector<AddedToken> with_ids(std::vector<AddedToken> tokens, const Vocabulary& vocabulary) {
  // Places of the tokens by content, in file order among equals.
  std::vector<uint32_t> order(tokens.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return tokens[a].content < tokens[b].content; });
  // The first of each content decides in file order; mark the others as followers of it.
  std::vector<uint32_t> first(tokens.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const bool follows = i > 0 && tokens[order[i]].content == tokens[order[i - 1]].content;
    first[order[i]] = follows ? first[order[i - 1]] : order[i];
  }
  auto next = static_cast<uint32_t>(vocabulary.size());
  for (uint32_t i = 0; i < tokens.size(); ++i) {
    if (first[i] != i) {
      tokens[i].id = tokens[first[i]].id;
    } else if (const auto id = vocabulary.find(tokens[i].content)) {
      tokens[i].id = *id;
    } else {
      tokens[i].id = next++;
    }
    if (tokens[i].id >= kIdEnd) {
      throw Error(ErrorCode::kFormat, "added_tokens: more ids than any vocabulary has");
    }
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  size_t kept = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i + 1 < tokens.size() && tokens[i + 1].id == tokens[i].id) continue;
    if (kept != i) tokens[kept] = std::move(tokens[i]);
    ++kept;
  }
  tokens.resize(kept);
  return tokens;
}

// The library decodes to the normalised form and hides what is then the content of a special token.
void mark_hidden(std::vector<AddedToken>& tokens) {
  std::vector<std::string_view> special;
  for (const auto& token : tokens) {
    if (token.special) special.push_back(token.content);
  }
  std::sort(special.begin(), special.end());
  for (auto& token : tokens) {
    token.hidden = std::binary_search(special.begin(), special.end(), token.pattern());
  }
}

bool touches_word(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word(previous_char(text, begin))) return true;
  return end < text.size() && is_word(next_char(text, end));
}

size_t skip_spaces_back(std::string_view text, size_t at) {
  for (size_t before = at; at > 0; at = before) {
    if (!is_space(previous_char(text, before))) break;
  }
  return at;
}

size_t skip_spaces(std::string_view text, size_t at) {
  for (size_t after = at; at < text.size(); at = after) {
    if (!is_space(next_char(text, after))) break;
  }
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Vocabulary& vocabulary)
    : tokens_(with_ids(std::move(tokens), vocabulary)) {
  mark_hidden(tokens_);
  raw_ = index_of(tokens_, false);
  normal_ = index_of(tokens_, true);
}

AddedTokens::Index AddedTokens::index_of(const std::vector<AddedToken>& tokens, bool normalized) {
  Index index;
  index.reserve(
      static_cast<size_t>(std::count_if(tokens.begin(), tokens.end(), [&](const AddedToken& token) {
        return token.normalized == normalized;
      })));
  for (uint32_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].normalized == normalized) index.push_back(i);
  }
  std::sort(index.begin(), index.end(),
            [&](uint32_t a, uint32_t b) { return tokens[a].pattern() < tokens[b].pattern(); });
  for (size_t i = 1; i < index.size(); ++i) {
    if (tokens[index[i]].pattern() == tokens[index[i - 1]].pattern()) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("added_tokens: {:?} and {:?} match the same text",
                              tokens[index[i - 1]].content, tokens[index[i]].content));
    }
  }
  return index;
}

// Narrows the sorted patterns byte by byte to those that begin like `text`; a pattern that ends on
// the way stands first among them.
AddedTokens::Found AddedTokens::longest_at(std::string_view text, const Index& index) const {
  Found found;
  auto low = index.begin();
  auto high = index.end();
  for (size_t depth = 0; depth < text.size(); ++depth) {
    const auto byte = static_cast<uint8_t>(text[depth]);
    const auto byte_at = [&](uint32_t i) {
      return static_cast<uint8_t>(tokens_[i].pattern()[depth]);
    };
    low = std::partition_point(low, high, [&](uint32_t i) {
      return tokens_[i].pattern().size() <= depth || byte_at(i) < byte;
    });
    high = std::partition_point(low, high, [&](uint32_t i) { return byte_at(i) == byte; });
    if (low == high) break;
    const AddedToken& first = tokens_[*low];
    if (first.pattern().size() == depth + 1) found = {depth + 1, &first};
  }
  return found;
}

void AddedTokens::split(std::string_view text, bool normalized, bool parse_special,
                        std::vector<Section>& out) const {
  out.clear();
  const Index& index = normalized ? normal_ : raw_;
  size_t covered = 0;
  for (size_t at = 0; at < text.size() && !index.empty();) {
    const Found found = longest_at(text.substr(at), index);
    if (found.token == nullptr) {
      ++at;
      continue;
    }
    const AddedToken& token = *found.token;
    size_t begin = at;
    size_t end = at + found.size;
    at = end;  // the search goes on behind the token whether it counts or not
    if (token.special && !parse_special) continue;
    if (token.single_word && touches_word(text, begin, end)) continue;
    if (token.lstrip) begin = std::max(skip_spaces_back(text, begin), covered);
    if (token.rstrip) end = skip_spaces(text, end);
    if (begin > covered) out.push_back({covered, begin, nullptr});
    out.push_back({begin, end, &token});
    covered = end;
  }
  if (covered < text.size()) out.push_back({covered, text.size(), nullptr});
}

const AddedToken* AddedTokens::find(uint32_t id) const {
  const auto at =
      std::lower_bound(tokens_.begin(), tokens_.end(), id,
                       [](const AddedToken& token, uint32_t value) { return token.id < value; });
  return at != tokens_.end() && at->id == id ? &*at : nullptr;
}

}  // namespace headrace::engine
