#include "models/families.h"

#include <array>

#include "models/families/all.h"

namespace headrace::models {

std::span<const Family> families() {
  static const std::array kFamilies = {kLlama,   kMistral, kQwen2,    kQwen3,      kMixtral, kPhi3,
                                       kGemma2,  kGemma3,  kOlmo2,    kStarcoder2, kGpt2,    kOpt,
                                       kGptNeoX, kFalcon,  kQwen2Moe, kQwen3Moe};
  return kFamilies;
}

std::string family_names() {
  std::string names;
  for (const Family& family : families()) {
    if (!names.empty()) names += ", ";
    names += family.name;
  }
  return names;
}

const Family* find_family(std::string_view name_or_architecture) {
  for (const Family& family : families()) {
    if (name_or_architecture == family.name || name_or_architecture == family.architecture) {
      return &family;
    }
  }
  return nullptr;
}

}  // namespace headrace::models
