#include "engine/tokenizer/events.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace headrace::engine {
namespace {

constexpr size_t kAddedMax = 1 << 16;
// All small parts together. A real file has a few hundred values and a few KiB.
constexpr size_t kValuesMax = 4096;
constexpr size_t kValueTextMax = 64 * kKiB;

constexpr std::array<std::string_view, 7> kAddedFields = {
    "id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"};

}  // namespace

void EventHandler::append(Text part) {
  if (text_.size() + part.size() > kTokenBytesMax) fail_field(place(), "a string is too long");
  text_.append(part.data(), part.size());
}

std::string EventHandler::place() const {
  switch (part_) {
    case Part::kVocabulary:
      return "model.vocab";
    case Part::kMerges:
      return "model.merges";
    case Part::kAdded:
      return "added_tokens";
    case Part::kModel:
      return "model";
    default:
      return top_.empty() ? "tokenizer.json" : top_;
  }
}

void EventHandler::once(std::vector<std::string>& seen, const std::string& name) {
  for (const auto& other : seen) {
    if (other == name) fail_field(place(), fmt::format("the field {:?} is there twice", name));
  }
  if (seen.size() == 64) fail_field(place(), "too many fields");
  seen.push_back(name);
}

void EventHandler::open(bool object) {
  ++depth_;
  switch (part_) {
    case Part::kTop:
      return open_top(object);
    case Part::kModel:
      return open_model(object);
    case Part::kVocabulary:
      fail_field(place(), "an id must be a number");
    case Part::kMerges:
      if (object || depth_ != 4) fail_field(place(), "each must be \"a b\" or [\"a\", \"b\"]");
      pair_size_ = 0;
      return;
    case Part::kAdded:
      if (!object || depth_ != 3) fail_field(place(), "each must be an object of plain values");
      added_ = {};
      added_fields_ = 0;
      return;
    case Part::kTree:
      return count_tree(0);
    case Part::kSkip:
      return;
  }
}

void EventHandler::open_top(bool object) {
  if (depth_ == 1) {
    if (!object) fail_field(place(), "it must be an object");
    return;
  }
  if (top_ == "model") {
    if (!object) fail_field("model", "it must be an object");
    part_ = Part::kModel;
  } else if (top_ == "added_tokens") {
    if (object) fail_field(top_, "it must be a list");
    part_ = pass_ == Pass::kMerges ? Part::kSkip : Part::kAdded;
  } else if (pass_ == Pass::kCount && (top_ == "normalizer" || top_ == "pre_tokenizer" ||
                                       top_ == "post_processor" || top_ == "decoder")) {
    part_ = Part::kTree;
    stack_.reset();
    count_tree(0);
  } else {
    part_ = Part::kSkip;  // truncation, padding and what a later version may add
  }
}

void EventHandler::open_model(bool object) {
  if (key_ == "vocab") {
    if (!object) {
      throw Error(ErrorCode::kUnsupported,
                  "model: a vocabulary with scores (Unigram) is not supported; convert the "
                  "tokenizer to BPE");
    }
    part_ = pass_ == Pass::kMerges ? Part::kSkip : Part::kVocabulary;
    vocabulary_seen_ = true;
  } else if (key_ == "merges") {
    if (object) fail_field("model.merges", "it must be a list");
    if (!vocabulary_seen_) merges_early_ = true;
    // Merges name tokens: those before the vocabulary wait for a pass of their own.
    const bool skipped = pass_ == Pass::kFill && !vocabulary_seen_;
    part_ = skipped ? Part::kSkip : Part::kMerges;
    merges_seen_ = true;
  } else {
    part_ = Part::kSkip;
  }
}

void EventHandler::close(bool object, size_t n) {
  const size_t depth = depth_--;
  switch (part_) {
    case Part::kTop:
      return;
    case Part::kModel:
      part_ = Part::kTop;
      return;
    case Part::kVocabulary:
      part_ = Part::kModel;
      return;
    case Part::kMerges:
      if (depth == 3) {
        part_ = Part::kModel;
      } else if (pair_size_ != 2) {
        fail_field(place(), "a merge must have two parts");
      } else {
        add_merge();
      }
      return;
    case Part::kAdded:
      if (depth == 2) {
        part_ = Part::kTop;
      } else {
        end_added();
      }
      return;
    case Part::kTree:
      if (object) {
        stack_.push_object(n);
      } else {
        stack_.push_array(n);
      }
      if (depth == 2) end_tree();
      return;
    case Part::kSkip:
      // The skipped value hung below the top (closed at depth 2) or below the model (3).
      if (depth == 2 || (depth == 3 && top_ == "model")) {
        part_ = depth == 2 ? Part::kTop : Part::kModel;
      }
      return;
  }
}

void EventHandler::end_tree() {
  json::value value = stack_.release();
  if (top_ == "normalizer") file_.normalizer = std::move(value);
  if (top_ == "pre_tokenizer") file_.pre_tokenizer = std::move(value);
  if (top_ == "post_processor") file_.post_processor = std::move(value);
  if (top_ == "decoder") file_.decoder = std::move(value);
  part_ = Part::kTop;
}

void EventHandler::count_tree(size_t text_bytes) {
  value_text_ += text_bytes;
  if (++values_ > kValuesMax || value_text_ > kValueTextMax) {
    fail_field(top_, "it is too large for a description of a tokenizer");
  }
}

void EventHandler::key() {
  switch (part_) {
    case Part::kTop:
      top_ = text_;
      once(top_seen_, top_);
      break;
    case Part::kModel:
      key_ = text_;
      once(model_seen_, key_);
      break;
    case Part::kVocabulary:
    case Part::kAdded:
      key_ = text_;
      break;
    case Part::kTree:
      count_tree(text_.size());
      stack_.push_key(text_);
      break;
    case Part::kMerges:
    case Part::kSkip:
      break;
  }
  text_.clear();
}

void EventHandler::scalar(const Scalar& value) {
  switch (part_) {
    case Part::kTop:
      if (depth_ == 0) fail_field(place(), "it must be an object");
      if (top_ == "model" || (top_ == "added_tokens" && value.kind != Scalar::Kind::kNull)) {
        fail_field(top_, "it must not be a plain value");
      }
      if (value.kind != Scalar::Kind::kNull && (top_ == "normalizer" || top_ == "pre_tokenizer" ||
                                                top_ == "post_processor" || top_ == "decoder")) {
        fail_field(top_, "it must be an object or null");
      }
      return;
    case Part::kModel:
      return model_scalar(value);
    case Part::kVocabulary:
      return add_token(value);
    case Part::kMerges:
      if (value.kind != Scalar::Kind::kString) fail_field(place(), "a merge must be text");
      if (depth_ == 4) {
        if (pair_size_ == 2) fail_field(place(), "a merge must have two parts");
        pair_[pair_size_++] = value.text;
      } else {
        // Some files carry the first line of merges.txt along.
        if (value.text.starts_with("#version")) return;
        const size_t space = value.text.find(' ');
        if (space == std::string_view::npos ||
            value.text.find(' ', space + 1) != std::string_view::npos) {
          fail_field(place(),
                     fmt::format("{:?} is not two tokens with a space between", value.text));
        }
        pair_[0] = value.text.substr(0, space);
        pair_[1] = value.text.substr(space + 1);
        add_merge();
      }
      return;
    case Part::kAdded:
      return added_scalar(value);
    case Part::kTree:
      return tree_scalar(value);
    case Part::kSkip:
      return;
  }
}

void EventHandler::tree_scalar(const Scalar& value) {
  count_tree(value.text.size());
  switch (value.kind) {
    case Scalar::Kind::kNull:
      return stack_.push_null();
    case Scalar::Kind::kBool:
      return stack_.push_bool(value.truth);
    case Scalar::Kind::kNumber:
      return stack_.push_int64(value.number);
    case Scalar::Kind::kReal:
      return stack_.push_double(value.real);
    case Scalar::Kind::kString:
      return stack_.push_string(value.text);
  }
}

void EventHandler::model_scalar(const Scalar& value) {
  if (pass_ != Pass::kCount) return;
  const bool null = value.kind == Scalar::Kind::kNull;
  const auto flag = [&](bool& target) {
    if (null) return;
    if (value.kind != Scalar::Kind::kBool) {
      fail_field("model." + key_, "it must be true or false");
    }
    target = value.truth;
  };
  const auto unsupported = [&] {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("model.{}: this value is not supported; only BPE of bytes or with "
                            "byte fallback is",
                            key_))
        .at_field("model." + key_);
  };
  if (key_ == "type") {
    if (value.text != "BPE") {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("model: the type {:?} is not supported; only BPE is", value.text));
    }
  } else if (key_ == "unk_token") {
    if (!null && value.kind != Scalar::Kind::kString)
      fail_field("model.unk_token", "it must be text");
    file_.model.unknown = value.text;
  } else if (key_ == "fuse_unk") {
    flag(file_.model.fuse_unknown);
  } else if (key_ == "byte_fallback") {
    flag(file_.model.byte_fallback);
  } else if (key_ == "ignore_merges") {
    flag(file_.model.ignore_merges);
  } else if (key_ == "dropout") {
    const bool zero = (value.kind == Scalar::Kind::kNumber && value.number == 0) ||
                      (value.kind == Scalar::Kind::kReal && value.real == 0);
    if (!null && !zero) unsupported();
  } else if (key_ == "continuing_subword_prefix" || key_ == "end_of_word_suffix") {
    if (!null && !(value.kind == Scalar::Kind::kString && value.text.empty())) unsupported();
  } else if (key_ == "vocab" || key_ == "merges") {
    fail_field("model." + key_, "it must not be a plain value");
  }
}

void EventHandler::add_token(const Scalar& value) {
  if (value.kind != Scalar::Kind::kNumber || value.number < 0 || value.number >= kIdEnd) {
    fail_field(place(),
               fmt::format("the id of {:?} must be a whole number below {}", key_, kIdEnd));
  }
  const auto id = static_cast<uint32_t>(value.number);
  if (pass_ == Pass::kFill) return file_.vocabulary.add(key_, id);
  ++counts_.tokens;
  counts_.text_bytes += Vocabulary::stored_bytes(key_);
  counts_.id_end = std::max(counts_.id_end, id + 1);
}

void EventHandler::add_merge() {
  if (pass_ == Pass::kCount) {
    ++counts_.merges;
  } else {
    file_.vocabulary.add_merge(pair_[0], pair_[1]);
  }
}

void EventHandler::added_scalar(const Scalar& value) {
  if (depth_ != 3) fail_field(place(), "each must be an object");
  size_t field = 0;
  while (field < kAddedFields.size() && kAddedFields[field] != key_) ++field;
  if (field == kAddedFields.size()) return;  // a later version may say more
  if ((added_fields_ >> field & 1) != 0) {
    fail_field(place(), fmt::format("the field {} is there twice", key_));
  }
  added_fields_ |= 1U << field;
  const auto expected = field == 0   ? Scalar::Kind::kNumber
                        : field == 1 ? Scalar::Kind::kString
                                     : Scalar::Kind::kBool;
  if (value.kind != expected)
    fail_field(place(), fmt::format("the field {} has a wrong type", key_));
  if (field == 0 && (value.number < 0 || value.number >= kIdEnd)) {
    fail_field(place(), fmt::format("an id must be a whole number below {}", kIdEnd));
  }
  if (field == 1) added_.content = value.text;
  const std::array<bool*, 5> flags = {&added_.single_word, &added_.lstrip, &added_.rstrip,
                                      &added_.normalized, &added_.special};
  if (field >= 2) *flags[field - 2] = value.truth;
}

void EventHandler::end_added() {
  if (added_fields_ != (1U << kAddedFields.size()) - 1) {
    fail_field(place(),
               "a token lacks one of id, content, single_word, lstrip, rstrip, normalized, "
               "special");
  }
  if (++added_count_ > kAddedMax) {
    fail_field(place(), fmt::format("more than {} added tokens", kAddedMax));
  }
  // An empty token could match nowhere; the library leaves it out as well.
  if (pass_ != Pass::kFill || added_.content.empty()) return;
  added_.content.shrink_to_fit();
  if (file_.added.size() == file_.added.capacity()) {
    fail_field(place(), "the file changed while it was read; try again");
  }
  file_.added.push_back(std::move(added_));
}

}  // namespace headrace::engine
