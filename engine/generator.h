// Requests in, tokens out: forms passes of decode rows and prompt chunks of several requests, runs
// them on a session and samples. A request's tokens depend on nothing but itself: not on its
// neighbours, the budget or how its prompt was cut.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "engine/session.h"

namespace headrace::engine {

struct Request {
  std::vector<int32_t> prompt;  // at least one token
  SamplingParams sampling;
  std::vector<int32_t> stop_ids;  // ends the request unless sampling.ignore_eos
  uint64_t number = 0;            // whose it is: for the source and the sink, not read here
};

enum class FinishReason : uint8_t { kNone, kStop, kLength };
std::string_view name_of(FinishReason reason);  // "stop", "length"

struct Completion {
  std::vector<int32_t> token_ids;  // without the prompt; ends with the stop token if one ended it
  std::vector<TokenLogprobs> logprobs;  // of each, where they were asked for
  FinishReason finish = FinishReason::kNone;
  bool with_logprobs = false;
};

// Where requests come from: asked between two passes, when there is a place for one more.
class RequestSource {
 public:
  virtual ~RequestSource() = default;
  virtual std::optional<Request> next() = 0;  // one that is checked; nullopt: there are no more
};

class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // `choice`: which of the request's sampling.n outputs. Not called for the stop token. True: the
  // output ends here, by a stop string.
  virtual bool token(const Request& request, uint32_t choice, int32_t id) = 0;
  virtual void done(const Request& request, uint32_t choice, Completion&& completion) = 0;
};

// A list of requests as a source, and as a sink their completions in the same order, n of each.
class RequestList final : public RequestSource, public TokenSink {
 public:
  // `sink`, which may be null, is told as well.
  explicit RequestList(const std::vector<Request>& requests, TokenSink* sink = nullptr);
  std::optional<Request> next() override;
  bool token(const Request& request, uint32_t choice, int32_t id) override;
  void done(const Request& request, uint32_t choice, Completion&& completion) override;
  std::vector<Completion> take() { return std::move(completions_); }

 private:
  const std::vector<Request>& requests_;
  TokenSink* sink_;
  std::vector<Completion> completions_;
  std::vector<size_t> first_;  // of a request's completions
  size_t next_ = 0;
};

struct GeneratorTimings {
  double prefill_s = 0, decode_s = 0;  // passes with prompt rows; passes without
  uint64_t prompt_tokens = 0, generated_tokens = 0;
  uint64_t prefill_tokens = 0;  // of prompts, computed
  uint64_t reused_tokens = 0;  // of prompts: computed for another request that begins alike
  uint64_t decode_tokens = 0;  // sampled in passes without prompt rows
  uint64_t passes = 0;
};

class Generator {
 public:
  struct Options {
    bool share_prefixes = true;  // changes what is computed, never what comes out
  };
  explicit Generator(Session& session) : Generator(session, Options{}) {}
  Generator(Session& session, Options options);

  // Checks requests against the model (token ids, lengths). Throws Error(kUsage).
  static void check(const models::ModelConfig& config, Request& request);
  static void check(const models::ModelConfig& config, std::vector<Request>& requests);
  static Demand demand(const std::vector<Request>& requests);
  static void add_demand(Demand& demand, const Request& request);
  // What the outputs of a request take once they have ended: tokens, and JSON until it is written.
  static Bytes output_bytes(const SamplingParams& sampling);

  // Runs all to their end. `sink` may be null. `stopped` is looked at between passes (a signal).
  std::vector<Completion> run(const std::vector<Request>& requests, TokenSink* sink = nullptr,
                              const volatile bool* stopped = nullptr);
  void run(RequestSource& source, TokenSink& sink, const volatile bool* stopped = nullptr);
  // One pass over what is under way; false when nothing is left. For tests that count per pass.
  void start(RequestSource& source, TokenSink& sink);
  bool step();

  const GeneratorTimings& timings() const { return timings_; }

 private:
  struct Active {
    std::shared_ptr<const Request> request;  // its choices share it
    Completion completion;
    std::vector<int32_t> ends;  // ids that end it
    uint32_t choice = 0, sequence = 0;
    uint32_t fed = 0;    // tokens whose keys and values are in the cache, or will be
    bool waits = false;  // for another that fills what they share
    bool ended = false;
    bool decodes() const { return fed >= request->prompt.size(); }
  };
  void admit();
  bool open_next();
  void form_pass();
  void add_prompt(size_t index);
  void add_rows(size_t index, uint32_t count, bool output);
  void note_filled();
  void sample_outputs();
  void take_token(Active& active, int32_t id);

  Session& session_;
  Options options_;
  Sampler sampler_;
  GeneratorTimings timings_;
  uint32_t sequences_;  // most at a time
  RequestSource* source_ = nullptr;
  TokenSink* sink_ = nullptr;
  std::shared_ptr<const Request> next_;  // taken from the source, waits for room
  uint32_t next_choice_ = 0;
  bool exhausted_ = false;
  std::vector<Active> active_;      // in the order in which they were opened
  std::vector<uint32_t> decoding_;  // of active_
  size_t turn_ = 0;                 // who of them goes first when rows are scarce
  // The pass being formed.
  std::vector<int32_t> tokens_, positions_;
  std::vector<uint32_t> lengths_;  // by handle of the KV cache: tokens that a request may reach
  std::vector<uint32_t> sequence_, output_rows_, output_of_;  // output_of_: index into active_
  bool has_prompt_rows_ = false;
};

// float32 logits of every position from `first` on, a call per row in order: `row(position,
// logits)`.
void score(Session& session, std::span<const int32_t> ids,
           const std::function<void(uint32_t, std::span<const float>)>& row, uint32_t first = 0);

}  // namespace headrace::engine
