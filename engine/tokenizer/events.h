// Takes the events of a JSON parser that reads tokenizer.json and puts what they say into tables
// and options as they come. Knows where in the file the parser is; refuses wrong types, fields that
// are there twice and numbers out of range. One handler per pass over the file.
#pragma once

#include <array>
#include <boost/json/error.hpp>
#include <boost/json/string_view.hpp>
#include <boost/json/value_stack.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/fields.h"
#include "engine/tokenizer/reader.h"

namespace headrace::engine {

// A scalar as the parser found it.
struct Scalar {
  enum class Kind : uint8_t { kNull, kBool, kNumber, kReal, kString } kind = Kind::kNull;
  bool truth = false;
  int64_t number = 0;
  double real = 0;
  std::string_view text;
};

enum class Pass : uint8_t { kCount, kFill, kMerges };

// Takes the parser's events; `depth_` is the number of open containers and keys_[d] the key that
// is current in the container of depth d (empty in a list).
class EventHandler {
 public:
  constexpr static size_t max_object_size = ~size_t{0};
  constexpr static size_t max_array_size = ~size_t{0};
  constexpr static size_t max_key_size = ~size_t{0};
  constexpr static size_t max_string_size = ~size_t{0};

  using Code = boost::json::error_code;
  using Text = boost::json::string_view;

  EventHandler(Pass pass, TokenizerFile& file, VocabularyCounts& counts)
      : pass_(pass), file_(file), counts_(counts) {}

  bool merges_seen_early() const { return merges_early_; }
  uint64_t added_count() const { return added_count_; }
  bool complete() const { return vocabulary_seen_ && merges_seen_; }

  bool on_document_begin(Code&) { return true; }
  bool on_document_end(Code&) { return true; }
  bool on_object_begin(Code&) { return open(true), true; }
  bool on_object_end(size_t n, Code&) { return close(true, n), true; }
  bool on_array_begin(Code&) { return open(false), true; }
  bool on_array_end(size_t n, Code&) { return close(false, n), true; }
  bool on_key_part(Text part, size_t, Code&) { return append(part), true; }
  bool on_key(Text rest, size_t, Code&) { return append(rest), key(), true; }
  bool on_string_part(Text part, size_t, Code&) { return append(part), true; }
  bool on_string(Text rest, size_t, Code&) {
    append(rest);
    scalar({.kind = Scalar::Kind::kString, .text = text_});
    text_.clear();
    return true;
  }
  bool on_number_part(Text, Code&) { return true; }
  bool on_int64(int64_t value, Text, Code&) {
    return scalar({.kind = Scalar::Kind::kNumber, .number = value}), true;
  }
  bool on_uint64(uint64_t, Text, Code&) { fail_field(place(), "a number is too large"); }
  bool on_double(double value, Text, Code&) {
    return scalar({.kind = Scalar::Kind::kReal, .real = value}), true;
  }
  bool on_bool(bool value, Code&) {
    return scalar({.kind = Scalar::Kind::kBool, .truth = value}), true;
  }
  bool on_null(Code&) { return scalar({}), true; }
  bool on_comment_part(Text, Code&) { return true; }
  bool on_comment(Text, Code&) { return true; }

 private:
  // What the value that the parser is in belongs to.
  enum class Part : uint8_t { kTop, kModel, kVocabulary, kMerges, kAdded, kTree, kSkip };

  void append(Text part);
  std::string place() const;
  void open(bool object);
  void close(bool object, size_t n);
  void key();
  void scalar(const Scalar& value);

  void open_top(bool object);
  void open_model(bool object);
  void once(std::vector<std::string>& seen, const std::string& key);
  void model_scalar(const Scalar& value);
  void add_token(const Scalar& value);
  void add_merge();
  void added_scalar(const Scalar& value);
  void end_added();
  void tree_scalar(const Scalar& value);
  void count_tree(size_t text_bytes);
  void end_tree();

  Pass pass_;
  TokenizerFile& file_;
  VocabularyCounts& counts_;
  Part part_ = Part::kTop;
  size_t depth_ = 0;
  std::string text_;       // the string or key under way
  std::string top_, key_;  // current key at the top, and in the model or an added token
  std::vector<std::string> top_seen_, model_seen_;
  std::array<std::string, 2> pair_;  // a merge
  size_t pair_size_ = 0;
  AddedToken added_;
  uint32_t added_fields_ = 0;  // bit per field of added_
  uint64_t added_count_ = 0;
  boost::json::value_stack stack_;
  size_t values_ = 0, value_text_ = 0;
  bool vocabulary_seen_ = false, merges_seen_ = false, merges_early_ = false;
};

}  // namespace headrace::engine
