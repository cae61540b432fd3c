// `headrace perplexity`.
#include <fmt/format.h>

#include "core/clock.h"
#include "engine/cli/common.h"
#include "engine/cli/prompt_text.h"
#include "engine/generator.h"
#include "engine/perplexity.h"
#include "engine/report.h"

namespace headrace::engine::cli {

namespace {

struct PerplexityFlags {
  std::string model;
  SequenceFlags text;
  std::optional<uint32_t> window, stride;
  RunFlags run;
};

// What a text must be to be predicted.
void check_text(const std::vector<int32_t>& ids, const char* flag, uint64_t vocabulary) {
  if (ids.size() < 2) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("{}: {} tokens, and the first is given, not predicted; give two or more", flag,
                    ids.size()))
        .at_field(flag);
  }
  for (const int32_t id : ids) {
    if (static_cast<uint64_t>(id) < vocabulary) continue;
    throw Error(
        ErrorCode::kUsage,
        fmt::format("{}: token {} is outside the model's vocabulary; give ids from 0 to {}, "
                    "or for text the tokenizer.json that belongs to config.json",
                    flag, id, vocabulary - 1))
        .at_field(flag);
  }
}

uint32_t in_range(const char* flag, std::optional<uint32_t> value, uint64_t least, uint64_t most) {
  if (!value) return static_cast<uint32_t>(most);
  if (*value >= least && *value <= most) return *value;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: {} is out of range; give {} to {}", flag, *value, least, most))
      .at_field(flag);
}

Windows windows_of(const PerplexityFlags& flags, const ModelFolder& folder) {
  const uint32_t usual = std::max<uint32_t>(folder.config.max_position_embeddings, 2);
  const uint32_t most = std::max(folder.config.longest_text(), usual);
  const uint32_t length = in_range("--window", flags.window.value_or(usual), 2, most);
  return {.length = length, .stride = in_range("--stride", flags.stride, 1, length)};
}

void run_perplexity(const PerplexityFlags& flags, const Common& common) {
  ModelFolder folder = open_model(flags.model);
  const Windows windows = windows_of(flags, folder);
  ProgressBar bar(common);
  SessionOptions options = session_options(flags.run, common, &bar);
  const Sequence text = read_sequence(flags.text, folder, options);
  const std::vector<int32_t>& ids = text.ids;
  check_text(ids, flags.text.given(), folder.config.vocab_size);
  const auto longest = static_cast<uint32_t>(std::min<size_t>(windows.length, ids.size()) - 1);
  const Demand demand{.prompt_tokens = {longest}, .max_tokens = {0}, .all_logits = true};
  Session session(std::move(folder), text.memory, std::move(options), demand);
  bar.finish();
  note_device(flags.run, common);
  const double begin = steady_clock().seconds();
  const Score score = score_text(session, ids, windows, [](uint64_t) { throw_if_stopped(); });
  const RunTimings timings{.prefill_s = steady_clock().seconds() - begin,
                           .prompt_tokens = score.tokens,
                           .passes = session.executor().counters().passes};
  session.finish_trace();
  if (common.json) {
    print_json({{"model", session.folder().path},
                {"nll", score.nll()},
                {"perplexity", score.perplexity()},
                {"tokens", score.tokens},
                {"window", windows.length},
                {"stride", windows.stride},
                {"timings", timings_json(session, timings)},
                {"memory", memory_json(session)},
                {"plan", plan_json(session.plan(), session.planning_ms())},
                {"swap", swap_json(session)},
                {"stall", stall_json(session)}});
    return;
  }
  print_text(fmt::format("perplexity {:.6g}, mean negative log-likelihood {:.6g}, {} tokens\n",
                         score.perplexity(), score.nll(), score.tokens));
  if (!shows(common, Level::kInfo)) return;
  log(common, Level::kInfo, summary_line(session, timings));
}

}  // namespace

Command add_perplexity(CLI::App& app, Common& common) {
  auto flags = std::make_shared<PerplexityFlags>();
  CLI::App* c = app.add_subcommand("perplexity", "how well a model predicts a text");
  c->add_option("MODEL", flags->model, "a Hugging Face folder")->required();
  add_sequence_flags(*c, flags->text);
  c->add_option("--window", flags->window, "tokens of context (default: the most the model takes)");
  c->add_option("--stride", flags->stride, "tokens from window to window (default: one window)");
  add_run_flags(*c, flags->run);
  add_plan_flag(*c, flags->run);
  add_trace_flag(*c, flags->run);
  return {c, [flags, &common] { run_perplexity(*flags, common); }};
}

}  // namespace headrace::engine::cli
