// `headrace synth`.
#include "engine/synth.h"

#include <fmt/format.h>

#include "engine/cli/common.h"
#include "models/families.h"

namespace headrace::engine::cli {

namespace {

struct Flags {
  std::string out, from, size;
  std::vector<std::string> set;
  SynthOptions options;
};

void run_synth(Flags& flags, const Common& common) {
  if (!flags.from.empty()) {
    const json::value config = read_json(flags.from);
    if (!config.is_object()) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: not a JSON object; give a config.json", flags.from))
          .at_path(flags.from);
    }
    flags.options.config = config.as_object();
  }
  for (const std::string& item : flags.set) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("--set: {} is not KEY=VALUE; write hidden_size=2048", item))
          .at_field("--set");
    }
    const std::string text = item.substr(equals + 1);
    json::value value(text);
    try {
      value = parse_json(text, "--set");
    } catch (const Error&) {
      // Not JSON: a plain word, such as silu.
    }
    flags.options.set[item.substr(0, equals)] = value;
  }
  if (!flags.size.empty()) {
    flags.options.size = parse_size(flags.size, "--size");
    if (flags.options.size == 0) {
      throw Error(ErrorCode::kUsage, "--size: 0 is no model; give one like 3GiB, or leave it out")
          .at_field("--size");
    }
  }
  ProgressBar bar(common);
  const SynthReport report = synthesize(
      flags.out, flags.options, [&](Bytes done, Bytes total) { bar.update("synth", done, total); });
  bar.finish();
  if (common.json) {
    return print_json({{"model", flags.out},
                       {"weight_bytes", report.weight_bytes},
                       {"layers", report.layers},
                       {"shards", report.shards}});
  }
  log(common, Level::kInfo,
      fmt::format("{}: {} layers, {} of weights in {} file(s)", flags.out, report.layers,
                  format_bytes(report.weight_bytes), report.shards));
}

}  // namespace

Command add_synth(CLI::App& app, Common& common) {
  auto flags = std::make_shared<Flags>();
  CLI::App* c =
      app.add_subcommand("synth", "a model folder with random weights and a working tokenizer");
  c->add_option("OUT", flags->out, "folder to make")->required();
  CLI::Option* family =
      c->add_option("--family", flags->options.family, "one of " + models::family_names())
          ->capture_default_str();
  c->add_option("--from", flags->from, "a config.json to follow")->excludes(family);
  c->add_option("--size", flags->size, "weights to aim for: 3GiB");
  c->add_option("--set", flags->set, "a config.json key: hidden_size=2048; repeatable")
      ->allow_extra_args(false);
  c->add_option("--dtype", flags->options.dtype, "stored precision")
      ->check(CLI::IsMember({"float32", "bfloat16", "float16"}))
      ->capture_default_str();
  c->add_option("--seed", flags->options.seed, "seed of the weights")
      ->check(whole_number)
      ->capture_default_str();
  return {c, [flags, &common] { run_synth(*flags, common); }};
}

}  // namespace headrace::engine::cli
