// `headrace perplexity`.
#include <fmt/format.h>

#include "core/clock.h"
#include "engine/cli/common.h"
#include "engine/generator.h"
#include "engine/perplexity.h"
#include "engine/report.h"

namespace headrace::engine::cli {

namespace {

struct PerplexityFlags {
  std::string model, ids, file;
  std::optional<uint32_t> window, stride;
  RunFlags run;
};

// What encoding takes for each byte of valid text, at most: a tokenizer that does not split at
// spaces takes 28 (text of 5 MB, peak of the process).
constexpr Bytes kEncodingBytes = 30;

struct Tokens {
  std::vector<int32_t> ids;
  Bytes memory = 0;  // that reading them took at most
};

Tokens read_tokens(const PerplexityFlags& flags, const ModelFolder& folder) {
  Tokens tokens;
  std::vector<int32_t>& ids = tokens.ids;
  if (!flags.ids.empty()) {
    ids = parse_ids(flags.ids);
    tokens.memory = 2 * ids.size() * sizeof(ids[0]);
  } else {
    const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder.path);
    if (tokenizer == nullptr) {
      throw Error(ErrorCode::kUsage, fmt::format("{}: no tokenizer.json; give --ids", folder.path))
          .at_path(folder.path);
    }
    const std::string text = read_file(flags.file, 64 * kMiB);
    ids = tokenizer->encode(text);
    tokens.memory = kEncodingBytes * lossless(text).size();
  }
  const char* flag = flags.ids.empty() ? "-f" : "--ids";
  if (ids.size() < 2) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("{}: {} tokens, and the first is given, not predicted; give two or more", flag,
                    ids.size()))
        .at_field(flag);
  }
  for (const int32_t id : ids) {
    if (static_cast<uint64_t>(id) < folder.config.vocab_size) continue;
    throw Error(
        ErrorCode::kUsage,
        fmt::format("{}: token {} is outside the model's vocabulary; give ids from 0 to {}, "
                    "or for text the tokenizer.json that belongs to config.json",
                    flag, id, folder.config.vocab_size - 1))
        .at_field(flag);
  }
  return tokens;
}

uint32_t in_range(const char* flag, std::optional<uint32_t> value, uint64_t least, uint64_t most) {
  if (!value) return static_cast<uint32_t>(most);
  if (*value >= least && *value <= most) return *value;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: {} is out of range; give {} to {}", flag, *value, least, most))
      .at_field(flag);
}

Windows windows_of(const PerplexityFlags& flags, const ModelFolder& folder) {
  const uint64_t most = std::max<uint64_t>(folder.config.max_position_embeddings, 2);
  const uint32_t length = in_range("--window", flags.window, 2, most);
  return {.length = length, .stride = in_range("--stride", flags.stride, 1, length)};
}

void run_perplexity(const PerplexityFlags& flags, const Common& common) {
  ModelFolder folder = open_model(flags.model);
  const Windows windows = windows_of(flags, folder);
  const Bytes tokenizer_bytes = tokenizer_memory(folder.path);
  const Tokens tokens = read_tokens(flags, folder);
  const std::vector<int32_t>& ids = tokens.ids;
  const auto longest = static_cast<uint32_t>(std::min<size_t>(windows.length, ids.size()) - 1);
  const Demand demand{.prompt_tokens = {longest}, .max_tokens = {0}, .all_logits = true};
  ProgressBar bar(common);
  Session session(std::move(folder), tokenizer_bytes + tokens.memory,
                  session_options(flags.run, common, &bar), demand);
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
  CLI::Option* ids = c->add_option("--ids", flags->ids, "token ids: 1,2,3");
  CLI::Option* file = c->add_option("-f,--file", flags->file, "text file");
  ids->excludes(file);
  c->add_option("--window", flags->window, "tokens of context (default: the most the model takes)");
  c->add_option("--stride", flags->stride, "tokens from window to window (default: one window)");
  add_run_flags(*c, flags->run);
  add_plan_flag(*c, flags->run);
  add_trace_flag(*c, flags->run);
  return {c, [flags, &common] {
            if (flags->ids.empty() && flags->file.empty()) {
              throw Error(ErrorCode::kUsage, "text: none given; give -f or --ids").at_field("-f");
            }
            run_perplexity(*flags, common);
          }};
}

}  // namespace headrace::engine::cli
