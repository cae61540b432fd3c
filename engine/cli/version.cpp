// `headrace version`.
#include <fmt/format.h>

#include "engine/cli/common.h"
#include "kernels/table.h"
#include "swap/store.h"

namespace headrace::engine::cli {

Command add_version(CLI::App& app, Common& common) {
  CLI::App* c = app.add_subcommand("version", "version, compiler and kernels of this build");
  return {c, [&common] {
            json::array isas;
            std::string names;
            for (const kernels::Kernels* k : kernels::tables()) {
              if (!kernels::supported(*k)) continue;
              isas.emplace_back(k->isa);
              names += fmt::format("{}{}", names.empty() ? "" : ", ", k->isa);
            }
            if (common.json) {
              return print_json({{"version", HEADRACE_VERSION},
                                 {"compiler", __VERSION__},
                                 {"store_format", swap::kStoreVersion},
                                 {"backends", json::array{"cpu"}},
                                 {"isa", isas}});
            }
            print_text(fmt::format("headrace {} (gcc {}; store format {}; cpu: {})\n",
                                   HEADRACE_VERSION, __VERSION__, swap::kStoreVersion, names));
          }};
}

}  // namespace headrace::engine::cli
