// The post_processor of tokenizer.json: the ids that go before and behind a text (BOS, EOS).
#pragma once

#include <cstdint>
#include <vector>

#include "core/json.h"

namespace headrace::engine {

struct PostProcessor {
  std::vector<int32_t> before, behind;
};

// `config` is the field's value, null included. Throws kFormat, kUnsupported.
PostProcessor read_post_processor(const json::value& config);

}  // namespace headrace::engine
