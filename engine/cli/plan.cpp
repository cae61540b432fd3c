// `headrace plan`: the same planner as a run; needs no weights.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "engine/cli/common.h"
#include "engine/in_place.h"
#include "engine/limits.h"
#include "engine/planning.h"
#include "engine/report.h"
#include "scheduler/explain.h"

namespace headrace::engine::cli {

namespace {

struct Flags {
  std::string model, output;
  uint32_t batch = 1;
  std::optional<uint32_t> prompt_length, generated;
  RunFlags run;
};

// Lengths that are not given take what the model has room for, at most the usual.
Demand demand_of(const Flags& flags, uint64_t most) {
  constexpr uint64_t kPrompt = 512, kGenerated = 256;
  const uint64_t half = std::max<uint64_t>(1, most / 2);
  const uint64_t prompt = flags.prompt_length.value_or(std::min(
      kPrompt, flags.generated && *flags.generated < most ? most - *flags.generated : half));
  const uint64_t generated =
      flags.generated.value_or(std::clamp<uint64_t>(most - std::min(most, prompt), 1, kGenerated));
  if (prompt + generated > most) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("--prompt-len, --gen-len: {} tokens, but the model takes at most {}; give less",
                    prompt + generated, most))
        .at_field("--prompt-len");
  }
  Demand demand;
  demand.prompt_tokens.assign(flags.batch, static_cast<uint32_t>(prompt));
  demand.max_tokens.assign(flags.batch, static_cast<uint32_t>(generated));
  return demand;
}

void run_plan(const Flags& flags, const Common& common) {
  const SessionOptions options = session_options(flags.run, common, nullptr);
  const std::filesystem::path path = flags.model;
  const bool folder = std::filesystem::is_directory(path);
  models::ModelConfig config = models::read_config(flags.model);
  Bytes tokenizer = 0;
  std::optional<SafetensorsFolder> files;
  std::string name = path.filename().string(), usage_file;
  if (folder) {
    ModelFolder model = open_model(flags.model);
    tokenizer = tokenizer_memory(model.path);
    name = model.name;
    if (options.store != kStoreNone) {
      usage_file = stores_folder(options) + "/" + store_key(model) + "/usage";
    }
    const bool has_weights =
        std::any_of(model.sources.begin(), model.sources.end(),
                    [](const SourceFile& f) { return f.name.ends_with(".safetensors"); });
    // Headers only: the precision is that of the files, and a read in place begins at their
    // offsets.
    if (has_weights) files = open_weights(model);
    config = model.config;
  }
  const bool in_place = options.store == kStoreNone;
  if (in_place && !files) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--store none: {} holds no weights, whose places in their files decide "
                            "what is read; give the model's folder, or leave --store none out",
                            flags.model))
        .at_field("--store");
  }
  const Demand demand = demand_of(flags, config.longest_text());
  const kernels::Kernels& k = kernels::kernels_for(options.isa);
  ThreadPool pool(options.threads != 0 ? options.threads : available_threads());
  const auto planned = make_plan(config, name, tokenizer, options, demand, k, pool, usage_file,
                                 in_place ? &*files : nullptr);
  if (!flags.output.empty()) {
    const std::string text = scheduler::print_plan(planned->plan);
    OutputFile file(flags.output, "-o");
    file.write(text.data(), text.size());
    file.commit();
  }
  if (common.json) {
    return print_json({{"model", name},
                       {"plan", plan_json(planned->plan, planned->planning_ms)},
                       {"swap", planned_swap_json(planned->plan, planned->workload)},
                       {"experts", planned_experts_json(planned->plan, planned->workload)},
                       {"alternatives", alternatives_json(planned->plan)}});
  }
  print_text(
      scheduler::explain(planned->plan, planned->workload, planned->machine, planned->budgets));
}

}  // namespace

Command add_plan(CLI::App& app, Common& common) {
  auto flags = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("plan", "what would move where, before anything runs");
  c->add_option("MODEL", flags->model, "a Hugging Face folder, or a config.json")->required();
  c->add_option("--batch", flags->batch, "sequences")
      ->check(CLI::Range(1u, 1u << 16))
      ->capture_default_str();
  c->add_option("--prompt-len", flags->prompt_length,
                "tokens of each prompt (default 512, or half of what the model takes)")
      ->check(CLI::Range(1u, 1u << 24));
  c->add_option("--gen-len", flags->generated,
                "tokens to generate for each (default 256, or what is left)")
      ->check(CLI::Range(1u, 1u << 24));
  c->add_option("-o,--output", flags->output, "write the plan as text, for --plan of a run");
  add_run_flags(*c, flags->run);
  refuse_flags(*c, {"--train", "--micro-batches", "--micro-batch-size", "--seq-len", "--optimizer"},
               "training is");
  refuse_flags(*c, {"--pin"}, "pinned decisions are");
  return {c, [flags, &common] { run_plan(*flags, common); }};
}

}  // namespace headrace::engine::cli
