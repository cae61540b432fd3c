// `headrace logits`.
#include <fmt/format.h>

#include "engine/cli/common.h"
#include "engine/cli/prompt_text.h"
#include "engine/generator.h"
#include "engine/report.h"

namespace headrace::engine::cli {

namespace {

struct LogitsFlags {
  std::string model, output;
  SequenceFlags text;
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
  ProgressBar bar(common);
  SessionOptions options = session_options(flags.run, common, &bar);
  Sequence text = read_sequence(flags.text, folder, options);
  std::vector<Request> requests(1);
  requests[0].prompt = std::move(text.ids);
  requests[0].sampling.max_tokens = 0;
  Generator::check(folder.config, requests);
  const std::vector<int32_t>& ids = requests[0].prompt;
  Demand demand = Generator::demand(requests);
  demand.all_logits = true;
  OutputFile file(flags.output, "-o");  // first: hours later is no time to learn of a wrong path
  Session session(std::move(folder), text.memory, std::move(options), demand);
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

Command add_logits(CLI::App& app, Common& common) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* c = app.add_subcommand("logits", "float32 logits of every position, as a NumPy file");
  c->add_option("MODEL", flags->model, "a Hugging Face folder")->required();
  add_sequence_flags(*c, flags->text);
  c->add_option("-o,--output", flags->output, "the .npy file to write: [tokens, vocab]")
      ->required();
  add_run_flags(*c, flags->run);
  add_plan_flag(*c, flags->run);
  add_trace_flag(*c, flags->run);
  return {c, [flags, &common] { run_logits(*flags, common); }};
}

}  // namespace headrace::engine::cli
