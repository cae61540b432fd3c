// `headrace generate`: prompts on the command line, or a batch file.
#include <fmt/format.h>
#include <unistd.h>

#include "engine/cli/arguments.h"
#include "engine/cli/batch.h"
#include "engine/cli/common.h"
#include "engine/cli/outputs.h"
#include "engine/cli/prompt_text.h"
#include "engine/cli/sampling_flags.h"
#include "engine/generation_config.h"
#include "engine/generator.h"
#include "engine/template/chat.h"

namespace headrace::engine::cli {

namespace {

struct GenerateFlags {
  std::string model;
  std::vector<std::string> prompts, ids;
  std::string file, input, output;
  uint32_t max_sequences = 0;
  SamplingFlags sampling;
  bool chat = false;
  std::string chat_template;
  std::string route_trace;
  RunFlags run;
};

// Each text as what a user says, in the model's own form. The template is gone when this returns.
void render_chats(const GenerateFlags& flags, const ModelFolder& folder,
                  std::vector<std::string>& texts) {
  const auto chat_template = ChatTemplate::load(folder.path, flags.chat_template);
  for (std::string& text : texts) {
    const json::array messages = {json::object{{"role", "user"}, {"content", lossless(text)}}};
    text = chat_template.render(messages, nullptr);
  }
}

// What follows a prompt, where its length is all that is to be known of it.
Demand demand_of(const GenerateFlags& flags) {
  return {.max_tokens = {flags.sampling.max_tokens.value_or(SamplingParams{}.max_tokens)}};
}

std::vector<std::string> texts_of(const GenerateFlags& flags, const ModelFolder& folder,
                                  const SessionOptions& options, Bytes memory) {
  std::vector<std::string> texts = flags.prompts;
  if (!flags.file.empty()) {
    texts.push_back(read_text(flags.file, folder, memory, demand_of(flags), options));
  }
  if (texts.empty() && flags.ids.empty()) {
    if (::isatty(STDIN_FILENO) != 0) {
      throw Error(ErrorCode::kUsage,
                  "prompt: none given; give text with -p, -f or stdin, or ids with --ids")
          .at_field("-p");
    }
    texts.push_back(read_text(STDIN_FILENO, "stdin", folder, memory, demand_of(flags), options));
  }
  return texts;
}

// `memory`: of the process besides what is planned by name; what reading the requests takes is
// added to it.
std::vector<Request> requests_of(const GenerateFlags& flags, const ModelFolder& folder,
                                 const Tokenizer* tokenizer,
                                 const std::optional<Error>& unsupported,
                                 const SessionOptions& options, Bytes& memory) {
  std::vector<std::string> texts = texts_of(flags, folder, options, memory);
  if (!texts.empty() && unsupported) throw *unsupported;
  if (!texts.empty() && tokenizer == nullptr) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("{}: no tokenizer.json, so text cannot be read; give token ids with --ids",
                    folder.path))
        .at_path(folder.path);
  }
  std::vector<Request> requests;
  const SamplingParams params = sampling_params(flags.sampling, folder);
  if (!params.stop.empty() && unsupported) throw *unsupported;
  if (!params.stop.empty() && tokenizer == nullptr) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--stop: {} has no tokenizer.json; give --stop-token-ids", folder.path))
        .at_field("--stop");
  }
  const std::vector<int32_t> stops = end_ids(folder);
  // What a template makes has every special token already.
  if (flags.chat) render_chats(flags, folder, texts);
  const Bytes encoding = encoding_memory(texts);
  check_encoding(folder, memory, encoding, demand_of(flags), options);
  memory += encoding;
  for (const std::string& text : texts) {
    requests.push_back({tokenizer->encode(text, {.add_special = !flags.chat}), params, stops});
  }
  for (const std::string& ids : flags.ids) requests.push_back({parse_ids(ids), params, stops});
  return requests;
}

// Keeps what came, and prints the text of a single output as it comes.
class Printer final : public TextSink {
 public:
  Printer(const Tokenizer* tokenizer, size_t requests, bool streams)
      : TextSink(tokenizer), streams_(streams), outputs_(requests) {}
  const std::vector<std::vector<Output>>& outputs() const { return outputs_; }

 private:
  void settled(const Request&, std::string_view text) override {
    if (streams_ && !text.empty()) print_text(std::string(text));
  }
  void finished(const Request& request, std::vector<Output>&& outputs) override {
    if (streams_) print_text("\n");
    outputs_[request.number] = std::move(outputs);
  }

  bool streams_;
  std::vector<std::vector<Output>> outputs_;
};

// One that was not streamed: its text, or its ids where there is no tokenizer.
void print_output(const Output& output, bool has_text, const std::string& label) {
  if (!has_text) {
    print_text(fmt::format("{}\n", fmt::join(output.completion.token_ids, ",")));
  } else {
    print_text(fmt::format("[{}] {}\n", label, output.text));
  }
}

void print_outputs(const Printer& printer, bool has_text) {
  for (size_t i = 0; i < printer.outputs().size(); ++i) {
    const std::vector<Output>& choices = printer.outputs()[i];
    for (size_t c = 0; c < choices.size(); ++c) {
      const std::string label =
          choices.size() == 1 ? fmt::format("{}", i) : fmt::format("{}.{}", i, c);
      print_output(choices[c], has_text, label);
    }
  }
}

json::array outputs_json(const Printer& printer) {
  json::array list;
  for (const std::vector<Output>& choices : printer.outputs()) {
    for (const Output& output : choices) list.push_back(output_json(output, list.size()));
  }
  return list;
}

void note_lengths(const std::vector<Request>& requests, const GenerateFlags& flags,
                  const Common& common) {
  for (size_t i = 0; i < requests.size() && flags.sampling.max_tokens; ++i) {
    const uint32_t room = requests[i].sampling.max_tokens;
    if (room == *flags.sampling.max_tokens) continue;
    log(common, Level::kInfo,
        fmt::format("prompt {}: the model's length leaves room for {} tokens, not {}", i, room,
                    *flags.sampling.max_tokens));
  }
}

// All outputs are kept to the end; up to a mebibyte of them is within the base.
Demand demand_with_outputs(const std::vector<Request>& requests) {
  Demand demand = Generator::demand(requests);
  Bytes outputs = 0;
  for (const Request& request : requests) outputs += Generator::output_bytes(request.sampling);
  demand.held += outputs - std::min(outputs, kMiB);
  return demand;
}

void run_generate(const GenerateFlags& flags, const Common& common) {
  ModelFolder folder = open_model(flags.model);
  RouteTrace routes(flags.route_trace);
  ProgressBar bar(common);
  SessionOptions options = session_options(flags.run, common, &bar);
  options.max_sequences = flags.max_sequences;
  Bytes memory = tokenizer_memory(folder.path);
  std::optional<Error> unsupported;
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder.path, unsupported);
  std::vector<Request> requests =
      requests_of(flags, folder, tokenizer.get(), unsupported, options, memory);
  Generator::check(folder.config, requests);
  Session session(std::move(folder), memory, std::move(options), demand_with_outputs(requests));
  bar.finish();
  note_device(flags.run, common);
  warn_of_settings(session.folder(), common);
  warn_of_tokenizer(unsupported, common);
  note_lengths(requests, flags, common);
  routes.watch(session);
  Generator generator(session);
  const bool single = requests.size() == 1 && requests[0].sampling.n == 1;
  const bool streams = !common.json && single && tokenizer != nullptr;
  Printer printer(tokenizer.get(), requests.size(), streams);
  RequestList list(requests, &printer);
  generator.run(list, list, &g_stop);
  routes.finish();
  session.finish_trace();
  if (common.json) {
    print_json(run_json(session, generator, {{"outputs", outputs_json(printer)}}));
  } else if (!streams) {
    print_outputs(printer, tokenizer != nullptr);
  }
  log_summary(session, generator, common);
}

// Exactly one of the two ways to ask.
void check_batch(const GenerateFlags& flags) {
  const auto refuse = [](const char* flag, const char* why) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: {}", flag, why)).at_field(flag);
  };
  if (flags.input.empty()) refuse("-o", "no requests; give -i, or leave -o out for text on stdout");
  if (flags.output.empty()) refuse("-i", "nowhere to write results; give -o");
  if (!flags.prompts.empty() || !flags.ids.empty() || !flags.file.empty()) {
    refuse("-i", "prompts are given as well; leave -p, -f and --ids out");
  }
  if (flags.chat) refuse("--chat", "a line of a batch says `messages`; leave it out");
}

void run(const GenerateFlags& flags, const Common& common) {
  if (flags.input.empty() && flags.output.empty()) return run_generate(flags, common);
  check_batch(flags);
  run_batch({.model = flags.model,
             .input = flags.input,
             .output = flags.output,
             .chat_template = flags.chat_template,
             .route_trace = flags.route_trace,
             .max_sequences = flags.max_sequences,
             .run = flags.run,
             .defaults =
                 [&](const ModelFolder& folder) { return sampling_params(flags.sampling, folder); },
             .stop_ids = end_ids},
            common);
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
  CLI::Option* input =
      c->add_option("-i,--input", flags->input, "batch: a request a line, as JSON");
  c->add_option("-o,--output", flags->output,
                "batch: a result a line, as requests end; what is there is kept");
  c->add_option("--max-num-seqs", flags->max_sequences, "requests that run at a time (0: planned)")
      ->capture_default_str();
  add_sampling_flags(*c, flags->sampling);
  c->add_option("--route-trace", flags->route_trace,
                "write the experts of every pass, a JSON line each");
  add_run_flags(*c, flags->run);
  add_plan_flag(*c, flags->run);
  add_trace_flag(*c, flags->run);
  CLI::Option* chat = c->add_flag("--chat", flags->chat,
                                  "each prompt is a user's message: render the chat template");
  const CLI::Option* chat_template = c->add_option("--chat-template", flags->chat_template,
                                                   "a template file instead of the model's");
  refuse_flags(*c, {"--pin"}, "this is");
  return {c, [=, &common] {
            check_needed(*chat_template, {chat, input});
            run(*flags, common);
          }};
}

}  // namespace headrace::engine::cli
