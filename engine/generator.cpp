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

void Generator::check(const models::ModelConfig& config, std::vector<Request>& requests) {
  for (Request& request : requests) {
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
    const uint64_t most = config.max_position_embeddings;
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
}

Demand Generator::demand(const std::vector<Request>& requests) {
  Demand demand;
  for (const Request& request : requests) {
    demand.prompt_tokens.push_back(static_cast<uint32_t>(request.prompt.size()));
    demand.max_tokens.push_back(request.sampling.max_tokens);
  }
  return demand;
}

Generator::Generator(Session& session)
    : session_(session), sampler_(session.folder().config.vocab_size) {
  const scheduler::Plan& plan = session.plan();
  tokens_.reserve(plan.rows_max);
  positions_.reserve(plan.rows_max);
  sequence_.reserve(plan.rows_max);
  output_rows_.reserve(plan.outputs_max);
  output_of_.reserve(plan.outputs_max);
  active_.reserve(session.workload().sequences);
}

void Generator::start(const std::vector<Request>& requests, TokenSink* sink) {
  requests_ = &requests;
  sink_ = sink;
  next_request_ = turn_ = 0;
  active_.clear();
  completions_.assign(requests.size(), {});
  for (size_t i = 0; i < requests.size(); ++i) {
    completions_[i].token_ids.reserve(requests[i].sampling.max_tokens);
    timings_.prompt_tokens += requests[i].prompt.size();
  }
}

// Opens waiting requests in order while their whole KV fits: one that runs never has to stop for
// room.
void Generator::admit() {
  while (next_request_ < requests_->size() && active_.size() < session_.workload().sequences) {
    const Request& request = (*requests_)[next_request_];
    if (request.sampling.max_tokens == 0) {
      completions_[next_request_].finish = FinishReason::kLength;
      if (sink_) sink_->done(next_request_, completions_[next_request_]);
      ++next_request_;
      continue;
    }
    const uint32_t sequence = session_.kv().open();
    if (!session_.kv().grow(sequence, request.prompt.size() + request.sampling.max_tokens)) {
      session_.kv().close(sequence);
      HEADRACE_ASSERT(!active_.empty(), "the plan has too little KV for one request");
      return;
    }
    active_.push_back({.request = static_cast<uint32_t>(next_request_++), .sequence = sequence});
  }
}

int32_t Generator::token_at(const Active& active, uint32_t position) const {
  const std::vector<int32_t>& prompt = (*requests_)[active.request].prompt;
  if (position < prompt.size()) return prompt[position];
  return completions_[active.request].token_ids[position - prompt.size()];
}

void Generator::add_rows(size_t index, uint32_t count, bool output) {
  Active& active = active_[index];
  for (uint32_t i = 0; i < count; ++i) {
    tokens_.push_back(token_at(active, active.fed));
    positions_.push_back(static_cast<int32_t>(active.fed));
    sequence_.push_back(active.sequence);
    ++active.fed;
  }
  if (!output) return;
  output_rows_.push_back(static_cast<uint32_t>(tokens_.size()) - 1);
  output_of_.push_back(static_cast<uint32_t>(index));
}

// Decode rows first, then prompt chunks, while rows and outputs last; who goes first takes turns.
void Generator::form_pass() {
  const scheduler::Plan& plan = session_.plan();
  tokens_.clear(), positions_.clear(), sequence_.clear(), output_rows_.clear(), output_of_.clear();
  has_prompt_rows_ = false;
  const size_t n = active_.size();
  for (const bool decoding : {true, false}) {
    for (size_t i = 0; i < n; ++i) {
      const size_t index = (turn_ + i) % n;
      const Active& active = active_[index];
      const uint32_t prompt = static_cast<uint32_t>((*requests_)[active.request].prompt.size());
      if ((active.fed >= prompt) != decoding) continue;
      const uint32_t room = plan.rows_max - static_cast<uint32_t>(tokens_.size());
      const uint32_t left = decoding ? 1 : prompt - active.fed;
      uint32_t count = std::min(room, left);
      const bool can_output = output_rows_.size() < plan.outputs_max;
      if (count == left && !can_output) count = left - 1;  // its last row waits for a turn
      if (count == 0) continue;
      has_prompt_rows_ |= !decoding;
      add_rows(index, count, count == left);
    }
  }
  turn_ = (turn_ + 1) % n;
  HEADRACE_ASSERT(!tokens_.empty(), "a pass that moves nobody on");
}

void Generator::finish(size_t index, FinishReason reason) {
  Active& active = active_[index];
  completions_[active.request].finish = reason;
  session_.kv().close(active.sequence);
  if (sink_) sink_->done(active.request, completions_[active.request]);
}

void Generator::sample_outputs() {
  const uint64_t vocabulary = session_.folder().config.vocab_size;
  const float* logits = session_.decoder().logits(session_.activations());
  for (size_t o = 0; o < output_of_.size(); ++o) {
    const size_t index = output_of_[o];
    const uint32_t r = active_[index].request;
    const Request& request = (*requests_)[r];
    Completion& completion = completions_[r];
    const int32_t id = sampler_.sample({logits + o * vocabulary, vocabulary}, request.sampling, 0,
                                       request.prompt, completion.token_ids, {});
    ++timings_.generated_tokens;
    timings_.decode_tokens += has_prompt_rows_ ? 0 : 1;
    const bool stop =
        !request.sampling.ignore_eos &&
        std::find(request.stop_ids.begin(), request.stop_ids.end(), id) != request.stop_ids.end();
    completion.token_ids.push_back(id);
    if (sink_ && !stop) sink_->token(r, id);
    if (stop) {
      finish(index, FinishReason::kStop);
    } else if (completion.token_ids.size() >= request.sampling.max_tokens) {
      finish(index, FinishReason::kLength);
    }
  }
  std::erase_if(active_, [&](const Active& a) {
    return completions_[a.request].finish != FinishReason::kNone;
  });
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
                .output_rows = output_rows_,
                .logits = session_.decoder().logits(session_.activations())});
  sample_outputs();
  const double seconds = steady_clock().seconds() - begin;
  (has_prompt_rows_ ? timings_.prefill_s : timings_.decode_s) += seconds;
  ++timings_.passes;
  return true;
}

std::vector<Completion> Generator::take() { return std::move(completions_); }

std::vector<Completion> Generator::run(const std::vector<Request>& requests, TokenSink* sink,
                                       const volatile bool* stopped) {
  start(requests, sink);
  while (step()) {
    if (stopped != nullptr && *stopped) {
      throw Error(ErrorCode::kInterrupted, "interrupted: stopped between two passes");
    }
  }
  return take();
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
                 .output_rows = outputs,
                 .logits = session.decoder().logits(session.activations())});
    for (size_t o = 0; o < outputs.size(); ++o) {
      row(begin + outputs[o], {logits + o * vocabulary, vocabulary});
    }
  }
  session.kv().close(kv);
}

}  // namespace headrace::engine
