// `headrace generate` and `headrace logits`.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "engine/cli/common.h"
#include "engine/generator.h"
#include "engine/report.h"

namespace headrace::engine::cli {

namespace {

struct GenerateFlags {
  std::string model;
  std::vector<std::string> prompts, ids;
  std::string file;
  std::optional<uint32_t> max_tokens, top_k;
  std::optional<double> temperature, top_p;
  uint64_t seed = 0;
  bool ignore_eos = false;
  std::string route_trace;
  RunFlags run;
};

// Numbers of generation_config.json that stand where no flag does.
template <typename T>
std::optional<T> configured(const ModelFolder& folder, const char* key) {
  if (!folder.generation_config) return std::nullopt;
  const json::value* v = folder.generation_config->if_contains(key);
  if (v == nullptr || v->is_null()) return std::nullopt;
  boost::system::error_code inexact;
  const T value = v->is_number() ? v->to_number<T>(inexact) : T{};
  if (v->is_number() && !inexact) return value;
  const char* wanted = std::is_integral_v<T> ? "a whole number of 0 or more" : "a number";
  throw Error(ErrorCode::kFormat,
              fmt::format("{}/generation_config.json: {}: not {}; mend or remove it", folder.path,
                          key, wanted))
      .at_path(folder.path + "/generation_config.json")
      .at_field(key);
}

std::vector<int32_t> stop_ids(const ModelFolder& folder) {
  std::vector<int32_t> ids;
  const auto add = [&](const json::value& v) {
    if (v.is_int64()) ids.push_back(static_cast<int32_t>(v.as_int64()));
  };
  const json::value* v =
      folder.generation_config ? folder.generation_config->if_contains("eos_token_id") : nullptr;
  if (v != nullptr && v->is_array()) {
    for (const json::value& item : v->as_array()) add(item);
  } else if (v != nullptr) {
    add(*v);
  }
  if (ids.empty()) {
    for (int64_t id : folder.config.eos_token_ids) ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

SamplingParams sampling(const GenerateFlags& flags, const ModelFolder& folder) {
  // A model that samples says so; a temperature on the command line asks for it too, and then the
  // model's own top_k and top_p stand where no flag does.
  bool samples = flags.temperature.value_or(0) > 0;
  if (folder.generation_config) {
    const json::value* v = folder.generation_config->if_contains("do_sample");
    samples |= v != nullptr && v->is_bool() && v->as_bool();
  }
  SamplingParams p;
  p.temperature = flags.temperature.value_or(
      samples ? configured<double>(folder, "temperature").value_or(1.0) : 0.0);
  p.top_k = flags.top_k.value_or(samples ? configured<uint32_t>(folder, "top_k").value_or(0) : 0);
  p.top_p = flags.top_p.value_or(samples ? configured<double>(folder, "top_p").value_or(1.0) : 1.0);
  p.max_tokens =
      flags.max_tokens.value_or(configured<uint32_t>(folder, "max_new_tokens").value_or(256));
  p.seed = flags.seed;
  p.ignore_eos = flags.ignore_eos;
  return p;
}

// What the model's own settings ask for and this version leaves out is said, not passed over.
void warn_of_settings(const ModelFolder& folder, const Common& common) {
  constexpr std::pair<const char*, double> kNeutral[] = {
      {"repetition_penalty", 1}, {"min_p", 0}, {"typical_p", 1}, {"no_repeat_ngram_size", 0}};
  for (const auto& [key, neutral] : kNeutral) {
    const double value = configured<double>(folder, key).value_or(neutral);
    if (value == neutral) continue;
    log(common, Level::kWarning,
        fmt::format("generation_config.json: {} {} is not in this version; left out", key, value));
  }
}

std::vector<Request> requests_of(const GenerateFlags& flags, const ModelFolder& folder,
                                 const Tokenizer* tokenizer) {
  std::vector<std::string> texts = flags.prompts;
  if (!flags.file.empty()) texts.push_back(read_file(flags.file, 64 * kMiB));
  if (texts.empty() && flags.ids.empty()) {
    if (::isatty(STDIN_FILENO) != 0) {
      throw Error(ErrorCode::kUsage,
                  "prompt: none given; give text with -p, -f or stdin, or ids with --ids")
          .at_field("-p");
    }
    texts.push_back(read_stdin());
  }
  if (!texts.empty() && tokenizer == nullptr) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("{}: no tokenizer.json, so text cannot be read; give token ids with --ids",
                    folder.path))
        .at_path(folder.path);
  }
  std::vector<Request> requests;
  const SamplingParams params = sampling(flags, folder);
  const std::vector<int32_t> stops = stop_ids(folder);
  for (const std::string& text : texts)
    requests.push_back({tokenizer->encode(text), params, stops});
  for (const std::string& ids : flags.ids) requests.push_back({parse_ids(ids), params, stops});
  return requests;
}

// Streams the text of a single request as it comes.
class Printer final : public TokenSink {
 public:
  Printer(const Tokenizer* tokenizer, bool enabled) : enabled_(enabled && tokenizer != nullptr) {
    if (enabled_) stream_.emplace(*tokenizer);
  }
  void token(size_t, int32_t id) override {
    if (enabled_) print_text(stream_->next(id));
  }
  void done(size_t, const Completion&) override {
    if (enabled_) print_text(stream_->finish() + "\n");
  }

 private:
  bool enabled_;
  std::optional<TextStream> stream_;
};

std::string text_of(const Tokenizer* tokenizer, const Completion& completion) {
  if (tokenizer == nullptr) return "";
  std::span<const int32_t> ids = completion.token_ids;
  if (completion.finish == FinishReason::kStop && !ids.empty()) ids = ids.first(ids.size() - 1);
  return tokenizer->decode(ids);
}

json::array outputs_json(const Tokenizer* tokenizer, const std::vector<Completion>& completions) {
  json::array outputs;
  for (size_t i = 0; i < completions.size(); ++i) {
    const Completion& c = completions[i];
    outputs.push_back(json::object{{"index", i},
                                   {"text", lossless(text_of(tokenizer, c))},
                                   {"token_ids", ids_json(c.token_ids)},
                                   {"finish_reason", name_of(c.finish)},
                                   {"logprobs", nullptr}});
  }
  return outputs;
}

RunTimings run_timings(const GeneratorTimings& t) {
  return {.prefill_s = t.prefill_s,
          .decode_s = t.decode_s,
          .prompt_tokens = t.prompt_tokens,
          .decode_tokens = t.decode_tokens,
          .passes = t.passes};
}

// A line per pass of --route-trace: {"pass", "layers": [[expert ids per row] …]}.
class RouteTrace {
 public:
  RouteTrace(Session& session, const std::string& path) : session_(session) {
    if (path.empty()) return;
    file_.open(path, std::ios::trunc);
    if (!file_) {
      throw Error(ErrorCode::kIo, fmt::format("{}: cannot be written; check --route-trace", path))
          .at_path(path);
    }
    const uint32_t k = session.folder().config.experts_per_token;
    session.set_route_observer([this, k](uint32_t, std::span<const uint32_t> experts) {
      if (session_.executor().counters().passes != pass_) flush();
      json::array rows;
      for (size_t i = 0; i + k <= experts.size(); i += k) {
        json::array row;
        for (uint32_t r = 0; r < k; ++r) row.push_back(experts[i + r]);
        rows.push_back(row);
      }
      layers_.push_back(rows);
    });
  }
  void flush() {
    if (!layers_.empty()) {
      file_ << to_text(json::object{{"pass", pass_}, {"layers", layers_}}) << "\n";
    }
    layers_.clear();
    pass_ = session_.executor().counters().passes;
  }

 private:
  Session& session_;
  std::ofstream file_;
  json::array layers_;
  uint64_t pass_ = 0;
};

void run_generate(const GenerateFlags& flags, const Common& common) {
  ModelFolder folder = open_model(flags.model);
  const Bytes tokenizer_bytes = tokenizer_memory(folder.path);
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder.path);
  std::vector<Request> requests = requests_of(flags, folder, tokenizer.get());
  Generator::check(folder.config, requests);
  ProgressBar bar(common);
  Session session(std::move(folder), tokenizer_bytes, session_options(flags.run, common, &bar),
                  Generator::demand(requests));
  bar.finish();
  note_device(flags.run, common);
  warn_of_settings(session.folder(), common);
  for (size_t i = 0; i < requests.size() && flags.max_tokens; ++i) {
    const uint32_t room = requests[i].sampling.max_tokens;
    if (room == *flags.max_tokens) continue;
    log(common, Level::kInfo,
        fmt::format("prompt {}: the model's length leaves room for {} tokens, not {}", i, room,
                    *flags.max_tokens));
  }
  RouteTrace routes(session, flags.route_trace);
  Generator generator(session);
  Printer printer(tokenizer.get(), !common.json && requests.size() == 1);
  const std::vector<Completion> completions = generator.run(requests, &printer, &g_stop);
  routes.flush();
  session.finish_trace();
  const RunTimings timings = run_timings(generator.timings());
  if (common.json) {
    uint64_t generated = 0;
    for (const Completion& c : completions) generated += c.token_ids.size();
    print_json({{"model", session.folder().path},
                {"outputs", outputs_json(tokenizer.get(), completions)},
                {"usage", json::object{{"prompt_tokens", generator.timings().prompt_tokens},
                                       {"completion_tokens", generated}}},
                {"timings", timings_json(session, timings)},
                {"memory", memory_json(session)},
                {"plan", plan_json(session.plan(), session.planning_ms())},
                {"swap", swap_json(session)},
                {"stall", stall_json(session)}});
  } else {
    for (size_t i = 0; i < completions.size(); ++i) {
      if (tokenizer == nullptr) {
        print_text(fmt::format("{}\n", fmt::join(completions[i].token_ids, ",")));
      } else if (completions.size() > 1) {
        print_text(fmt::format("[{}] {}\n", i, text_of(tokenizer.get(), completions[i])));
      }
    }
  }
  if (common.json || !shows(common, Level::kInfo)) return;
  log(common, Level::kInfo, summary_line(session, timings));
  if (common.log_format == "json") return log(common, Level::kInfo, to_text(swap_json(session)));
  fmt::print(stderr, "{}", swap_table(session));
}

// ---- logits

struct LogitsFlags {
  std::string model, ids, file, output;
  RunFlags run;
};

// The header of a NumPy file, format 1.0: float32, C order.
std::string npy_header(uint64_t rows, uint64_t columns) {
  std::string text =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  text.resize((10 + text.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');
  text += '\n';
  const auto low = static_cast<char>(text.size() & 0xff);
  const auto high = static_cast<char>(text.size() >> 8);
  return std::string("\x93NUMPY\x01\x00", 8) + low + high + text;
}

void run_logits(const LogitsFlags& flags, const Common& common) {
  ModelFolder folder = open_model(flags.model);
  const Bytes tokenizer_bytes = tokenizer_memory(folder.path);
  std::vector<Request> requests(1);
  if (!flags.ids.empty()) {
    requests[0].prompt = parse_ids(flags.ids);
  } else {
    const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder.path);
    if (tokenizer == nullptr) {
      throw Error(ErrorCode::kUsage, fmt::format("{}: no tokenizer.json; give --ids", folder.path))
          .at_path(folder.path);
    }
    requests[0].prompt = tokenizer->encode(read_file(flags.file, 64 * kMiB));
  }
  requests[0].sampling.max_tokens = 0;
  Generator::check(folder.config, requests);
  const std::vector<int32_t>& ids = requests[0].prompt;
  Demand demand = Generator::demand(requests);
  demand.all_logits = true;
  OutputFile file(flags.output, "-o");  // first: hours later is no time to learn of a wrong path
  ProgressBar bar(common);
  Session session(std::move(folder), tokenizer_bytes, session_options(flags.run, common, &bar),
                  demand);
  bar.finish();
  note_device(flags.run, common);
  const std::string header = npy_header(ids.size(), session.folder().config.vocab_size);
  file.write(header.data(), header.size());
  score(session, ids, [&](uint32_t, std::span<const float> row) {
    throw_if_stopped();
    file.write(row.data(), row.size_bytes());
  });
  file.commit();
  session.finish_trace();
  if (common.json) {
    print_json({{"model", session.folder().path},
                {"output", flags.output},
                {"tokens", ids.size()},
                {"vocab_size", session.folder().config.vocab_size},
                {"memory", memory_json(session)},
                {"plan", plan_json(session.plan(), session.planning_ms())},
                {"swap", swap_json(session)},
                {"stall", stall_json(session)}});
  } else if (!common.quiet) {
    log(common, Level::kInfo,
        fmt::format("{}: float32 [{}, {}]", flags.output, ids.size(),
                    session.folder().config.vocab_size));
  }
}

}  // namespace

Command add_generate(CLI::App& app, Common& common) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* c = app.add_subcommand("generate", "text (or tokens) from a model folder");
  c->add_option("MODEL", flags->model, "a Hugging Face folder")->required();
  c->add_option("-p,--prompt", flags->prompts, "prompt; may be given several times")
      ->allow_extra_args(false);
  c->add_option("-f,--file", flags->file, "read the prompt from a file");
  c->add_option("--ids", flags->ids, "prompt as token ids: 1,2,3; may be given several times")
      ->allow_extra_args(false);
  c->add_option("-n,--max-tokens", flags->max_tokens, "tokens to generate (default 256)");
  c->add_option("--temperature", flags->temperature, "0: greedy (default)");
  c->add_option("--top-k", flags->top_k, "sample among the K most likely (0: off)");
  c->add_option("--top-p", flags->top_p, "sample among the most likely that reach P (1: off)");
  c->add_option("--seed", flags->seed, "seed of sampling")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_flag("--ignore-eos", flags->ignore_eos, "go on past the end token");
  c->add_option("--route-trace", flags->route_trace,
                "write the experts of every pass, a JSON line each");
  add_run_flags(*c, flags->run);
  c->add_option("--plan", flags->run.plan, "run this plan")->group("Run");
  c->add_option("--trace", flags->run.trace, "write a Chrome trace: FILE.json or .json.gz")
      ->group("Run");
  refuse_flags(*c, {"-i,--input", "-o,--output", "--max-num-seqs"}, "batch files are");
  refuse_flags(*c,
               {"--min-p", "--typical-p", "--repetition-penalty", "--presence-penalty",
                "--frequency-penalty", "--logit-bias", "--stop", "--min-tokens", "--pin"},
               "this is");
  refuse_flags(*c, {"--logprobs", "--chat"}, "this is");
  return {c, [flags, &common] { run_generate(*flags, common); }};
}

Command add_logits(CLI::App& app, Common& common) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* c = app.add_subcommand("logits", "float32 logits of every position, as a NumPy file");
  c->add_option("MODEL", flags->model, "a Hugging Face folder")->required();
  CLI::Option* ids = c->add_option("--ids", flags->ids, "token ids: 1,2,3");
  CLI::Option* file = c->add_option("-f,--file", flags->file, "text file");
  ids->excludes(file);
  c->add_option("-o,--output", flags->output, "the .npy file to write: [tokens, vocab]")
      ->required();
  add_run_flags(*c, flags->run);
  c->add_option("--plan", flags->run.plan, "run this plan")->group("Run");
  c->add_option("--trace", flags->run.trace, "write a Chrome trace: FILE.json or .json.gz")
      ->group("Run");
  return {
      c, [flags, &common] {
        if (flags->ids.empty() && flags->file.empty()) {
          throw Error(ErrorCode::kUsage, "prompt: none given; give --ids or -f").at_field("--ids");
        }
        run_logits(*flags, common);
      }};
}

}  // namespace headrace::engine::cli
