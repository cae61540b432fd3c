// `headrace bench`: measurements beside ceilings that are taken in the same run.
#include "engine/cli/bench.h"

#include <fmt/format.h>

namespace headrace::engine::cli {

namespace {

// A benchmark of the contract that this version does not have: refused, whatever follows.
Command later(CLI::App& bench, const std::string& name, const std::string& what) {
  CLI::App* c = bench.add_subcommand(name)->group("");
  auto words = std::make_shared<std::vector<std::string>>();
  c->add_option("WORDS", *words);
  return {c, [name, what, words] {
            throw Error(ErrorCode::kUsage,
                        fmt::format("bench {}: {} not in this version; see `headrace bench --help`",
                                    name, what))
                .at_field(name);
          }};
}

}  // namespace

Command add_bench(CLI::App& app, Common& common) {
  CLI::App* c = app.add_subcommand(
      "bench",
      "measurements, with ratios to ceilings taken in the same run: kernels, io, generate");
  c->require_subcommand(1);
  const std::vector<Command> benches = {add_bench_kernels(*c, common), add_bench_io(*c, common),
                                        add_bench_generate(*c, common),
                                        later(*c, "train", "training is")};
  for (const Command& b : benches) b.app->fallthrough();
  return {c, [benches] {
            for (const Command& b : benches) {
              if (b.app->parsed()) return b.run();
            }
          }};
}

}  // namespace headrace::engine::cli
