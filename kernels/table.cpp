#include "kernels/table.h"

#include <string>

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
  static const Kernels* const list[] = {&reference_table()};
  return list;
}

bool supported(const Kernels& kernels) { return std::string_view(kernels.isa) == "reference"; }

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
