#include "engine/generator.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/clock.h"
#include "core/error.h"

namespace headrace::engine {

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kNone:
      break;
  }
  return "none";
}

void Generator::check(const models::ModelConfig& config, Request& request) {
  engine::check(request.sampling, config.vocab_size, Naming::kFlag);
  if (request.prompt.empty()) {
    throw Error(ErrorCode::kUsage, "prompt: no tokens; give text with -p, -f or ids with --ids")
        .at_field("prompt");
  }
  for (int32_t id : request.prompt) {
    if (id >= 0 && static_cast<uint64_t>(id) < config.vocab_size) continue;
    throw Error(ErrorCode::kUsage,
                fmt::format("prompt: token {} is outside the model's vocabulary; give --ids from "
                            "0 to {}, or for text the tokenizer.json that belongs to config.json",
                            id, config.vocab_size - 1))
        .at_field("--ids");
  }
  const uint64_t most = config.longest_text();
  if (request.prompt.size() > most) {
    throw Error(ErrorCode::kUsage,
                fmt::format("prompt: {} tokens, but the model takes at most {}; shorten it",
                            request.prompt.size(), most))
        .at_field("prompt");
  }
  const uint64_t left = most - request.prompt.size();
  request.sampling.max_tokens =
      static_cast<uint32_t>(std::min<uint64_t>(request.sampling.max_tokens, left));
}

void Generator::check(const models::ModelConfig& config, std::vector<Request>& requests) {
  for (Request& request : requests) check(config, request);
}

void Generator::add_demand(Demand& demand, const Request& request) {
  const SamplingParams& sampling = request.sampling;
  const size_t prompt = request.prompt.size();
  const size_t shared = prompt == 0 ? 0 : (prompt - 1) / kernels::kKvBlockTokens;
  for (uint32_t choice = 0; choice < sampling.n; ++choice) {  // but the first shares full blocks
    const size_t own = choice == 0 ? prompt : prompt - shared * kernels::kKvBlockTokens;
    demand.prompt_tokens.push_back(static_cast<uint32_t>(own));
    demand.max_tokens.push_back(sampling.max_tokens);
  }
  const Bytes logprobs = sampling.logprobs ? 64 + Bytes{*sampling.logprobs} * 8 : 0;
  demand.held_per_token = std::max(demand.held_per_token, Demand{}.held_per_token + logprobs);
}

Bytes Generator::output_bytes(const SamplingParams& sampling) {
  constexpr Bytes kPerToken = 96, kPerLogprob = 320;  // JSON values, then their text
  const Bytes logprobs = sampling.logprobs ? (Bytes{*sampling.logprobs} + 1) * kPerLogprob : 0;
  return Bytes{sampling.n} * sampling.max_tokens * (kPerToken + logprobs);
}

Demand Generator::demand(const std::vector<Request>& requests) {
  Demand demand;
  for (const Request& request : requests) add_demand(demand, request);
  return demand;
}

Generator::Generator(Session& session, Options options)
    : session_(session),
      options_(options),
      sampler_(session.folder().config.vocab_size, &session.threads()),
      sequences_(session.workload().sequences) {
  const scheduler::Plan& plan = session.plan();
  tokens_.reserve(plan.rows_max);
  positions_.reserve(plan.rows_max);
  sequence_.reserve(plan.rows_max);
  output_rows_.reserve(plan.outputs_max);
  output_of_.reserve(plan.outputs_max);
  active_.reserve(sequences_);
  decoding_.reserve(sequences_);
  lengths_.resize(session.kv().sequences().size());
}

void Generator::start(RequestSource& source, TokenSink& sink) {
  source_ = &source;
  sink_ = &sink;
  next_.reset();
  exhausted_ = false;
  turn_ = 0;
  active_.clear();
}

// Opens waiting requests in order while their whole KV fits: one that runs never has to stop for
// room.
void Generator::admit() {
  while (active_.size() < sequences_ && !exhausted_) {
    if (!next_) {
      std::optional<Request> request = source_->next();
      exhausted_ = !request;
      if (exhausted_) return;
      timings_.prompt_tokens += request->prompt.size();
      next_ = std::make_shared<const Request>(std::move(*request));
      next_choice_ = 0;
    }
    if (next_->sampling.max_tokens == 0) {
      sink_->done(
          *next_, next_choice_,
          {.finish = FinishReason::kLength, .with_logprobs = next_->sampling.logprobs.has_value()});
    } else if (!open_next()) {
      HEADRACE_ASSERT(!active_.empty(), "the plan has too little KV for one request");
      return;
    }
    if (++next_choice_ == next_->sampling.n) next_.reset();
  }
}

// The choices of a request are sequences of their own, which share its prompt as any that begin
// alike.
bool Generator::open_next() {
  KvCache& kv = session_.kv();
  const SamplingParams& sampling = next_->sampling;
  const uint32_t sequence = kv.open();
  const uint64_t length = next_->prompt.size() + sampling.max_tokens;
  // Where the length decides how the first tokens are computed, not all that begin alike are alike.
  const bool shares = options_.share_prefixes && !session_.decoder().lengths_matter();
  const uint64_t shared = shares ? kv.share(sequence, next_->prompt) : 0;
  if (!kv.reserve(sequence, length)) {
    kv.close(sequence);
    return false;
  }
  if (shares) kv.publish(sequence, next_->prompt);
  lengths_[sequence] = static_cast<uint32_t>(length);
  timings_.reused_tokens += shared;
  Active& active = active_.emplace_back();
  active.request = next_;
  active.ends = sampling.stop_token_ids;
  if (!sampling.ignore_eos) {
    active.ends.insert(active.ends.end(), next_->stop_ids.begin(), next_->stop_ids.end());
  }
  active.choice = next_choice_;
  active.sequence = sequence;
  active.fed = static_cast<uint32_t>(shared);
  active.waits = !kv.shared_is_filled(sequence);
  active.completion.token_ids.reserve(sampling.max_tokens);
  active.completion.with_logprobs = sampling.logprobs.has_value();
  return true;
}

void Generator::add_rows(size_t index, uint32_t count, bool output) {
  Active& active = active_[index];
  const bool room = session_.kv().grow(active.sequence, uint64_t{active.fed} + count);
  HEADRACE_ASSERT(room, "a request that runs has to stop for room");
  const std::vector<int32_t>& prompt = active.request->prompt;
  if (active.fed < prompt.size()) {
    timings_.prefill_tokens += std::min<uint64_t>(count, prompt.size() - active.fed);
  }
  for (uint32_t i = 0; i < count; ++i) {
    tokens_.push_back(active.fed < prompt.size()
                          ? prompt[active.fed]
                          : active.completion.token_ids[active.fed - prompt.size()]);
    positions_.push_back(static_cast<int32_t>(active.fed));
    sequence_.push_back(active.sequence);
    ++active.fed;
  }
  if (!output) return;
  output_rows_.push_back(static_cast<uint32_t>(tokens_.size()) - 1);
  output_of_.push_back(static_cast<uint32_t>(index));
}

void Generator::add_prompt(size_t index) {
  const scheduler::Plan& plan = session_.plan();
  const Active& active = active_[index];
  const uint32_t room = plan.rows_max - static_cast<uint32_t>(tokens_.size());
  const uint32_t left = static_cast<uint32_t>(active.request->prompt.size()) - active.fed;
  const bool can_output = output_rows_.size() < plan.outputs_max;
  uint32_t count = std::min(room, left);
  if (count == left && !can_output) count = left - 1;  // its last row waits for a turn
  if (count == 0) return;
  has_prompt_rows_ = true;
  add_rows(index, count, count == left);
}

// Decode rows first, those in turns when rows are scarce; then prompts, in the order in which they
// came, as far as rows and outputs last.
void Generator::form_pass() {
  const scheduler::Plan& plan = session_.plan();
  tokens_.clear(), positions_.clear(), sequence_.clear(), output_rows_.clear(), output_of_.clear();
  has_prompt_rows_ = false;
  const size_t n = active_.size();
  const size_t decode_max = std::min(plan.rows_max, plan.outputs_max);
  decoding_.clear();
  for (size_t i = 0; i < n; ++i) {
    if (active_[i].decodes()) decoding_.push_back(static_cast<uint32_t>(i));
  }
  const size_t d = decoding_.size(), rows = std::min(d, decode_max);
  for (size_t i = 0; i < rows; ++i) add_rows(decoding_[(turn_ + i) % d], 1, true);
  turn_ = d == 0 ? 0 : (turn_ + rows) % d;
  for (size_t i = 0; i < n; ++i) {
    if (!active_[i].decodes() && !active_[i].waits) add_prompt(i);
  }
  HEADRACE_ASSERT(!tokens_.empty(), "a pass that moves nobody on");
}

// What a pass computed of prompts can be attended to by those who share it.
void Generator::note_filled() {
  KvCache& kv = session_.kv();
  for (const Active& active : active_) {
    if (!active.waits) kv.set_filled(active.sequence, active.fed);
  }
  for (Active& active : active_) active.waits = !kv.shared_is_filled(active.sequence);
}

void Generator::take_token(Active& active, int32_t id) {
  const Request& request = *active.request;
  Completion& completion = active.completion;
  completion.token_ids.push_back(id);
  ++timings_.generated_tokens;
  timings_.decode_tokens += has_prompt_rows_ ? 0 : 1;
  const bool is_end = std::ranges::find(active.ends, id) != active.ends.end();
  if (is_end || sink_->token(request, active.choice, id)) {
    completion.finish = FinishReason::kStop;
  } else {
    if (completion.token_ids.size() < request.sampling.max_tokens) return;
    completion.finish = FinishReason::kLength;
  }
  session_.kv().close(active.sequence);
  active.ended = true;
  sink_->done(request, active.choice, std::move(completion));
}

void Generator::sample_outputs() {
  const uint64_t vocabulary = session_.folder().config.vocab_size;
  const float* all = session_.decoder().logits(session_.activations());
  for (size_t o = 0; o < output_of_.size(); ++o) {
    Active& active = active_[output_of_[o]];
    const SamplingParams& sampling = active.request->sampling;
    Completion& completion = active.completion;
    const std::span<const float> logits(all + o * vocabulary, vocabulary);
    std::span<const int32_t> masked;
    if (completion.token_ids.size() < sampling.min_tokens) masked = active.ends;
    const int32_t id = sampler_.sample(logits, sampling, active.choice, active.request->prompt,
                                       completion.token_ids, masked);
    if (sampling.logprobs) {
      completion.logprobs.push_back(sampler_.logprobs(logits, id, *sampling.logprobs));
    }
    take_token(active, id);
  }
  std::erase_if(active_, [](const Active& a) { return a.ended; });
}

bool Generator::step() {
  admit();
  if (active_.empty()) return false;
  form_pass();
  const double begin = steady_clock().seconds();
  session_.run({.tokens = tokens_,
                .positions = positions_,
                .sequence = sequence_,
                .sequences = session_.kv().sequences(),
                .lengths = lengths_,
                .output_rows = output_rows_,
                .logits = session_.decoder().logits(session_.activations())});
  if (has_prompt_rows_) note_filled();
  sample_outputs();
  const double seconds = steady_clock().seconds() - begin;
  (has_prompt_rows_ ? timings_.prefill_s : timings_.decode_s) += seconds;
  ++timings_.passes;
  return true;
}

void Generator::run(RequestSource& source, TokenSink& sink, const volatile bool* stopped) {
  start(source, sink);
  while (step()) {
    if (stopped != nullptr && *stopped) {
      throw Error(ErrorCode::kInterrupted, "interrupted: stopped between two passes; run it again");
    }
  }
}

RequestList::RequestList(const std::vector<Request>& requests, TokenSink* sink)
    : requests_(requests), sink_(sink) {
  size_t count = 0;
  for (const Request& request : requests) {
    first_.push_back(count);
    count += request.sampling.n;
  }
  completions_.resize(count);
}

std::optional<Request> RequestList::next() {
  if (next_ == requests_.size()) return std::nullopt;
  Request request = requests_[next_];
  request.number = next_++;
  return request;
}

bool RequestList::token(const Request& request, uint32_t choice, int32_t id) {
  return sink_ != nullptr && sink_->token(request, choice, id);
}

void RequestList::done(const Request& request, uint32_t choice, Completion&& completion) {
  Completion& place = completions_[first_[request.number] + choice];
  place = std::move(completion);
  if (sink_) sink_->done(request, choice, Completion(place));
}

std::vector<Completion> Generator::run(const std::vector<Request>& requests, TokenSink* sink,
                                       const volatile bool* stopped) {
  RequestList list(requests, sink);
  run(list, list, stopped);
  return list.take();
}

void score(Session& session, std::span<const int32_t> ids,
           const std::function<void(uint32_t, std::span<const float>)>& row, uint32_t first) {
  const uint64_t vocabulary = session.folder().config.vocab_size;
  const uint32_t rows_max = std::min(session.plan().rows_max, session.plan().outputs_max);
  const uint32_t kv = session.kv().open();
  HEADRACE_ASSERT(session.kv().grow(kv, ids.size()));
  const float* logits = session.decoder().logits(session.activations());
  std::vector<int32_t> positions;
  std::vector<uint32_t> sequence, outputs;
  const std::vector<uint32_t> lengths(session.kv().sequences().size(),
                                      static_cast<uint32_t>(ids.size()));
  for (uint32_t begin = 0; begin < ids.size(); begin += rows_max) {
    const uint32_t count = std::min<uint32_t>(rows_max, static_cast<uint32_t>(ids.size()) - begin);
    positions.clear(), sequence.clear(), outputs.clear();
    for (uint32_t i = 0; i < count; ++i) {
      positions.push_back(static_cast<int32_t>(begin + i));
      sequence.push_back(kv);
      if (begin + i >= first) outputs.push_back(i);
    }
    session.run({.tokens = ids.subspan(begin, count),
                 .positions = positions,
                 .sequence = sequence,
                 .sequences = session.kv().sequences(),
                 .lengths = lengths,
                 .output_rows = outputs,
                 .logits = session.decoder().logits(session.activations())});
    for (size_t o = 0; o < outputs.size(); ++o) {
      row(begin + outputs[o], {logits + o * vocabulary, vocabulary});
    }
  }
  session.kv().close(kv);
}

}  // namespace headrace::engine
