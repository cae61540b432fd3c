#include "engine/cli/outputs.h"

#include <fmt/format.h>

#include "engine/generation_config.h"
#include "engine/report.h"

namespace headrace::engine::cli {

TextSink::Running& TextSink::running(const Request& request) {
  Running& r = running_[request.number];
  if (!r.outputs.empty()) return r;
  r.outputs.resize(request.sampling.n);
  r.texts.resize(request.sampling.n);
  r.left = request.sampling.n;
  return r;
}

StopMatcher* TextSink::text_of(Running& r, const Request& request, uint32_t choice) {
  std::unique_ptr<StopMatcher>& text = r.texts[choice];
  if (!text && tokenizer_) {
    text = std::make_unique<StopMatcher>(*tokenizer_, request.sampling.stop);
  }
  return text.get();
}

bool TextSink::token(const Request& request, uint32_t choice, int32_t id) {
  StopMatcher* text = text_of(running(request), request, choice);
  if (text == nullptr) return false;
  settled(request, text->push(id));
  return text->matched();
}

void TextSink::done(const Request& request, uint32_t choice, Completion&& completion) {
  Running& r = running(request);
  Output& output = r.outputs[choice];
  output.completion = std::move(completion);
  if (StopMatcher* text = text_of(r, request, choice)) {
    if (!text->matched()) settled(request, text->finish());
    if (text->matched()) output.completion.finish = FinishReason::kStop;
    output.text = text->text();
    r.texts[choice].reset();
  }
  if (--r.left > 0) return;
  std::vector<Output> outputs = std::move(r.outputs);
  running_.erase(request.number);
  finished(request, std::move(outputs));
}

namespace {

json::object logprob_json(int32_t id, float logprob) { return {{"id", id}, {"logprob", logprob}}; }

json::value logprobs_json(const std::vector<TokenLogprobs>& tokens) {
  json::array list;
  list.reserve(tokens.size());
  for (const TokenLogprobs& token : tokens) {
    json::array top;
    top.reserve(token.top.size());
    for (const TokenLogprob& t : token.top) top.push_back(logprob_json(t.id, t.logprob));
    json::object o = logprob_json(token.id, token.logprob);
    o["top"] = std::move(top);
    list.push_back(std::move(o));
  }
  return list;
}

RunTimings run_timings(const GeneratorTimings& t) {
  return {.prefill_s = t.prefill_s,
          .decode_s = t.decode_s,
          .prompt_tokens = t.prefill_tokens,
          .decode_tokens = t.decode_tokens,
          .passes = t.passes};
}

}  // namespace

json::object output_json(const Output& output, uint64_t index) {
  const Completion& c = output.completion;
  json::value logprobs;
  if (c.with_logprobs) logprobs = logprobs_json(c.logprobs);
  return {{"index", index},
          {"text", lossless(output.text)},
          {"token_ids", ids_json(c.token_ids)},
          {"finish_reason", name_of(c.finish)},
          {"logprobs", std::move(logprobs)}};
}

json::object run_json(Session& session, const Generator& generator, json::object first) {
  const GeneratorTimings& t = generator.timings();
  json::object out{{"model", session.folder().path}};
  for (auto& [key, value] : first) out[key] = std::move(value);
  out["usage"] =
      json::object{{"prompt_tokens", t.prompt_tokens}, {"completion_tokens", t.generated_tokens}};
  json::object timings = timings_json(session, run_timings(t));
  timings["reused_tokens"] = t.reused_tokens;
  out["timings"] = std::move(timings);
  out["memory"] = memory_json(session);
  out["plan"] = plan_json(session.plan(), session.planning_ms());
  out["swap"] = swap_json(session);
  out["experts"] = experts_json(session);
  out["stall"] = stall_json(session);
  return out;
}

void warn_of_settings(const ModelFolder& folder, const Common& common) {
  for (const std::string& setting : settings_left_out(folder)) {
    log(common, Level::kWarning,
        fmt::format("generation_config.json: {} is not in this version; left out", setting));
  }
}

void log_summary(Session& session, const Generator& generator, const Common& common) {
  if (common.json || !shows(common, Level::kInfo)) return;
  log(common, Level::kInfo, summary_line(session, run_timings(generator.timings())));
  if (common.log_format == "json") return log(common, Level::kInfo, to_text(swap_json(session)));
  print_aside(swap_table(session));
}

RouteTrace::RouteTrace(const std::string& path) : path_(path) {
  if (path.empty()) return;
  file_.open(path, std::ios::trunc);
  check();
}

void RouteTrace::watch(Session& session) {
  session_ = &session;
  if (path_.empty()) return;
  const uint32_t k = session.folder().config.experts_per_token;
  session.set_route_observer([this, k](uint32_t, std::span<const uint32_t> experts) {
    if (session_->executor().counters().passes != pass_) flush();
    json::array rows;
    for (size_t i = 0; i + k <= experts.size(); i += k) {
      json::array row;
      for (uint32_t r = 0; r < k; ++r) row.push_back(experts[i + r]);
      rows.push_back(row);
    }
    layers_.push_back(rows);
  });
}

void RouteTrace::flush() {
  if (!layers_.empty()) {
    file_ << to_text(json::object{{"pass", pass_}, {"layers", layers_}}) << "\n";
  }
  layers_.clear();
  pass_ = session_->executor().counters().passes;
}

void RouteTrace::finish() {
  if (path_.empty()) return;
  flush();
  file_.flush();
  check();
}

void RouteTrace::check() const {
  if (file_) return;
  throw Error(ErrorCode::kIo,
              fmt::format("{}: cannot be written; check --route-trace and the space there", path_))
      .at_path(path_)
      .at_field("--route-trace");
}

}  // namespace headrace::engine::cli
