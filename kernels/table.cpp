#include "kernels/table.h"

#include <string>
#include <vector>

#include "core/error.h"
#include "kernels/cpu/tables.h"

namespace headrace::kernels {
namespace {

std::string names() {
  std::string text = "auto";
  for (const Kernels* table : tables()) {
    text += ", ";
    text += table->isa;
  }
  return text;
}

}  // namespace

std::span<const Kernels* const> tables() {
  static const std::vector<const Kernels*> list = [] {
    std::vector<const Kernels*> all;
    for (const IsaTable& table : isa_tables()) all.push_back(table.kernels);
    all.push_back(&scalar_table());
    all.push_back(&reference_table());
    return all;
  }();
  return list;
}

bool supported(const Kernels& kernels) {
  for (const IsaTable& table : isa_tables()) {
    if (table.kernels == &kernels) return table.supported;
  }
  return true;
}

const Kernels& kernels_for(std::string_view isa) {
  for (const Kernels* table : tables()) {
    if (isa != "auto" && isa != table->isa) continue;
    if (supported(*table)) return *table;
    if (isa == "auto") continue;
    throw Error(ErrorCode::kUsage, "kernels '" + std::string(isa) +
                                       "': this processor lacks the instructions; choose auto");
  }
  throw Error(ErrorCode::kUsage, "kernels '" + std::string(isa) +
                                     "': there is no such instruction set; choose one of " +
                                     names());
}

}  // namespace headrace::kernels
