// Requests in, tokens out: forms passes of decode rows and prompt chunks of several requests, runs
// them on a session and samples. A request's tokens depend on nothing but itself: not on its
// neighbours, the budget or how its prompt was cut.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "engine/session.h"

namespace headrace::engine {

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  SamplingParams sampling;
  std::vector<int32_t> stop_ids;  // ends the request unless sampling.ignore_eos
};

enum class FinishReason : uint8_t { kNone, kStop, kLength };
std::string_view name_of(FinishReason reason);  // "stop", "length"

struct Completion {
  std::vector<int32_t> token_ids;  // without the prompt; ends with the stop token if one ended it
  FinishReason finish = FinishReason::kNone;
};

class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void token(size_t request, int32_t id) = 0;  // not called for the stop token
  virtual void done(size_t request, const Completion& completion) = 0;
};

struct GeneratorTimings {
  double prefill_s = 0, decode_s = 0;  // passes with prompt rows; passes without
  uint64_t prompt_tokens = 0, generated_tokens = 0;
  uint64_t decode_tokens = 0;  // sampled in passes without prompt rows
  uint64_t passes = 0;
};

class Generator {
 public:
  explicit Generator(Session& session);

  // Checks the requests against the model (token ids, lengths). Throws Error(kUsage).
  static void check(const models::ModelConfig& config, std::vector<Request>& requests);
  static Demand demand(const std::vector<Request>& requests);

  // Runs all to their end. `sink` may be null. `stopped` is looked at between passes (a signal).
  std::vector<Completion> run(const std::vector<Request>& requests, TokenSink* sink = nullptr,
                              const volatile bool* stopped = nullptr);
  // One pass over what is under way; false when nothing is left. For tests that count per pass.
  void start(const std::vector<Request>& requests, TokenSink* sink);
  bool step();
  std::vector<Completion> take();  // after the last step

  const GeneratorTimings& timings() const { return timings_; }

 private:
  struct Active {
    uint32_t request = 0, sequence = 0;
    uint32_t fed = 0;  // tokens whose keys and values are in the cache
  };
  void admit();
  void form_pass();
  void add_rows(size_t active, uint32_t count, bool output);
  void sample_outputs();
  void finish(size_t active, FinishReason reason);
  int32_t token_at(const Active& active, uint32_t position) const;

  Session& session_;
  Sampler sampler_;
  GeneratorTimings timings_;
  const std::vector<Request>* requests_ = nullptr;
  TokenSink* sink_ = nullptr;
  std::vector<Completion> completions_;
  std::vector<Active> active_;
  size_t next_request_ = 0;
  size_t turn_ = 0;  // who goes first when rows are scarce
  // The pass being formed.
  std::vector<int32_t> tokens_, positions_;
  std::vector<uint32_t> sequence_, output_rows_, output_of_;  // output_of_: index into active_
  bool has_prompt_rows_ = false;
};

// float32 logits of every position from `first` on, a call per row in order: `row(position,
// logits)`.
void score(Session& session, std::span<const int32_t> ids,
           const std::function<void(uint32_t, std::span<const float>)>& row, uint32_t first = 0);

}  // namespace headrace::engine
