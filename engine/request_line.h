// A line of a batch's input: {"id", "prompt" | "ids" | "messages", …sampling}. What a line may hold
// is hostile until read; what is wrong with it is that line's error and nobody else's.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "engine/generator.h"
#include "engine/template/chat.h"
#include "engine/tokenizer/tokenizer.h"

namespace headrace::engine {

class RequestReader {
 public:
  // The tokenizer may be null: then only ids are taken, and `unsupported` says what is wrong with
  // one that is there. It must outlive the reader. No `chat_template`: the folder's own.
  RequestReader(const ModelFolder& folder, const Tokenizer* tokenizer, SamplingParams defaults,
                std::vector<int32_t> stop_ids, std::string chat_template = {},
                std::string unsupported = {});

  static json::object parse(std::string_view line);  // throws Error(kFormat)
  // As JSON text: a text or a whole number. nullopt: none that can be used.
  static std::optional<std::string> id_of(const json::object& line);
  Request read(const json::object& line) const;  // throws Error(kUsage)
  // What rendering messages may hold at a time; 0 before any were read. Known after a first pass
  // over all lines.
  Bytes chat_memory() const;

 private:
  void need_tokenizer(std::string_view field, std::string_view instead) const;
  std::vector<int32_t> prompt_of(const json::object& line) const;
  std::vector<int32_t> chat_of(const json::value& messages) const;
  std::vector<int32_t> encode(std::string_view field, std::string_view text,
                              const EncodeOptions& options) const;

  models::ModelConfig config_;
  const Tokenizer* tokenizer_;
  SamplingParams defaults_;
  std::vector<int32_t> stop_ids_;
  std::string folder_, chat_template_, unsupported_;
  std::tm now_{};  // what templates see: a line that is read again must give the same prompt
  mutable std::unique_ptr<ChatTemplate> chat_;  // loaded for the first messages
  mutable Bytes messages_max_ = 0;
};

}  // namespace headrace::engine
