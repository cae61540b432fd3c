#include "engine/cli/batch.h"

#include <fmt/format.h>

#include <filesystem>

#include "engine/batch_input.h"
#include "engine/batch_output.h"
#include "engine/cli/outputs.h"
#include "engine/limits.h"
#include "engine/report.h"

namespace headrace::engine::cli {

namespace {

// Between the files and the generator: hands out requests, writes a line when one has ended.
class BatchRun final : public RequestSource, public TextSink {
 public:
  BatchRun(BatchInput& input, BatchOutput& output, const Tokenizer* tokenizer, ProgressBar& bar)
      : TextSink(tokenizer), input_(input), output_(output), bar_(bar) {}

  std::optional<Request> next() override {
    while (auto line = input_.next()) {
      if (!line->request) {
        output_.append(std::move(line->error));
        continue;
      }
      line->request->number = number_++;
      ids_.emplace(line->request->number, std::move(line->id));
      return std::move(line->request);
    }
    return std::nullopt;
  }
  uint64_t done() const { return done_; }

 private:
  void finished(const Request& request, std::vector<Output>&& outputs) override {
    const auto id = ids_.extract(request.number);
    output_.append(line_of(id.mapped(), request, outputs));
    ++done_;
    uint64_t tokens = 0;
    for (const Output& o : outputs) tokens += o.completion.token_ids.size();
    tokens_ += tokens;
    asked_ += uint64_t{request.sampling.n} * request.sampling.max_tokens;
    const uint64_t all = input_.tokens_wanted();
    // What ends early elsewhere is taken to do so in what is left.
    const double share =
        static_cast<double>(tokens_) / static_cast<double>(std::max(asked_, uint64_t{1}));
    bar_.count("batch", done_, input_.pending(), tokens_,
               static_cast<uint64_t>(share * static_cast<double>(all - std::min(all, asked_))));
  }

  static std::string line_of(const std::string& id, const Request& request,
                             const std::vector<Output>& outputs) {
    uint64_t generated = 0;
    json::array list;
    for (size_t i = 0; i < outputs.size(); ++i) {
      list.push_back(output_json(outputs[i], i));
      generated += outputs[i].completion.token_ids.size();
    }
    json::object line;
    if (request.sampling.n > 1) {
      line["outputs"] = std::move(list);
    } else {
      line = std::move(list[0].as_object());
      line.stable_erase("index");
    }
    line["usage"] =
        json::object{{"prompt_tokens", request.prompt.size()}, {"completion_tokens", generated}};
    return fmt::format("{{\"id\":{},{}", id, to_text(line).substr(1));
  }

  BatchInput& input_;
  BatchOutput& output_;
  ProgressBar& bar_;
  std::unordered_map<uint64_t, std::string> ids_;  // of requests under way, as JSON text
  uint64_t number_ = 0, done_ = 0, tokens_ = 0, asked_ = 0;
};

json::object counts_json(const BatchInput& input, uint64_t finished) {
  const BatchCounts& c = input.counts();
  return {{"requests", c.requests}, {"finished", finished}, {"kept", c.kept}, {"errors", c.errors}};
}

void log_counts(const Common& common, const BatchInput& input, uint64_t finished) {
  const BatchCounts& c = input.counts();
  log(common, c.errors == 0 ? Level::kInfo : Level::kWarning,
      fmt::format("batch: {} requests: {} finished, {} kept from before, {} refused (see the "
                  "errors in -o)",
                  c.requests, finished, c.kept, c.errors));
}

// The summary's fields where no model ran: there is no plan.
json::object idle_json(const std::string& model, Bytes budget) {
  json::object timings = timings_json({}, 0, {});
  timings["reused_tokens"] = 0;
  const json::object host{{"budget", budget}, {"peak", 0}};
  return {{"model", model},
          {"usage", json::object{{"prompt_tokens", 0}, {"completion_tokens", 0}}},
          {"timings", timings},
          {"memory", json::object{{"budget", budget},
                                  {"peak_rss", peak_rss()},
                                  {"tiers", json::object{{"host", host}}}}},
          {"plan", nullptr},
          {"swap", json::array{}},
          {"experts", nullptr},
          {"stall", json::object{{"seconds", 0.0}, {"by_cause", json::object{}}}}};
}

// No model is loaded for lines that are answered, or cannot be.
void without_model(const Common& common, json::object summary, BatchRun& run, BatchInput& input,
                   BatchOutput& output) {
  while (run.next()) {
  }
  output.finish();
  log_counts(common, input, 0);
  if (!common.json) return;
  summary["batch"] = counts_json(input, 0);
  print_json(summary);
}

}  // namespace

void run_batch(const BatchFlags& flags, const Common& common) {
  std::error_code ignored;  // of files that are not there
  if (std::filesystem::equivalent(flags.input, flags.output, ignored)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("-o {}: is the input as well; give another file", flags.output))
        .at_path(flags.output)
        .at_field("-o");
  }
  BatchOutput output(flags.output);  // first: hours later is no time to learn of a wrong path
  ModelFolder folder = open_model(flags.model);
  const std::string path = folder.path;
  const Bytes tokenizer_bytes = tokenizer_memory(path);
  std::optional<Error> unsupported;
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(path, unsupported);
  const RequestReader reader(folder, tokenizer.get(), flags.defaults(folder),
                             flags.stop_ids(folder), flags.chat_template,
                             unsupported ? unsupported->what() : "");
  RouteTrace routes(flags.route_trace);
  ProgressBar bar(common);
  SessionOptions options = session_options(flags.run, common, &bar);
  options.max_sequences = flags.max_sequences;
  BatchInput input(flags.input, reader, output, options.memory.value_or(available_memory()),
                   [&](Bytes done, Bytes all) { bar.update("read", done, all); });
  output.forget_answers();
  BatchRun run(input, output, tokenizer.get(), bar);
  if (!input.any_request()) {
    json::object summary = idle_json(path, memory_budget(options));
    summary["output"] = flags.output;
    return without_model(common, std::move(summary), run, input, output);
  }
  Session session(std::move(folder), tokenizer_bytes + reader.chat_memory(), std::move(options),
                  input.demand());
  bar.finish();
  note_device(flags.run, common);
  warn_of_settings(session.folder(), common);
  warn_of_tokenizer(unsupported, common);
  routes.watch(session);
  Generator generator(session);
  try {
    generator.run(run, run, &g_stop);
  } catch (const Error&) {
    bar.finish();
    throw;  // whole lines are there, and the next run goes on from them
  }
  bar.finish();
  output.finish();
  routes.finish();
  session.finish_trace();
  log_counts(common, input, run.done());
  if (common.json) {
    print_json(run_json(session, generator,
                        {{"batch", counts_json(input, run.done())}, {"output", flags.output}}));
  }
  log_summary(session, generator, common);
}

}  // namespace headrace::engine::cli
