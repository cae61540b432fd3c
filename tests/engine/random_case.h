// A random model with random requests, and what every run of it must show: bytes that the plan
// predicts are those that are counted, row for row.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/engine/small_models.h"
#include "tests/support/temp_folder.h"

namespace headrace::test {

struct Case {
  std::string model;
  std::vector<engine::Request> requests;
  engine::SessionOptions base;  // with folders of its own, one thread, no budget
};

struct CaseShape {
  std::string family;
  uint64_t requests_max = 1, prompt_max = 1, tokens_max = 1;
  double ignores_end = 1;  // chance of each request
};

inline Case random_case(Random& random, const TempFolder& folder, uint64_t index,
                        const CaseShape& shape) {
  Case c;
  c.model = folder.path_of("model" + std::to_string(index));
  const char* dtypes[] = {"float32", "bfloat16", "float16"};
  make_model(c.model, random, shape.family, dtypes[random.below(3)]);
  const uint64_t vocabulary = vocabulary_of(c.model);
  for (uint64_t r = 0, n = random.between(1, shape.requests_max); r < n; ++r) {
    engine::Request request;
    request.prompt = random_ids(random, vocabulary, random.between(1, shape.prompt_max));
    request.sampling.max_tokens = static_cast<uint32_t>(random.between(1, shape.tokens_max));
    request.sampling.temperature = random.chance(0.5) ? 0.8 : 0.0;
    request.sampling.top_k = random.chance(0.5) ? 20 : 0;
    request.sampling.seed = random.next_u64();
    request.sampling.ignore_eos = random.chance(shape.ignores_end);
    c.requests.push_back(request);
  }
  c.base.store = folder.path_of("stores");
  c.base.cache = folder.path_of("cache");
  c.base.threads = 1;
  return c;
}

// Of rows that the plan predicts, or that the ledger counted.
template <typename Row>
Bytes sum_of(const std::vector<Row>& rows, Edge edge, Kind kind) {
  Bytes sum = 0;
  for (const Row& row : rows) sum += row.edge == edge && row.kind == kind ? row.bytes : 0;
  return sum;
}

inline void expect_exact(const RunResult& result) {
  const auto same = [&](Edge edge, Kind kind) {
    EXPECT_EQ(sum_of(result.predicted, edge, kind), sum_of(result.counted, edge, kind))
        << name_of(edge) << " " << name_of(kind);
  };
  for (const auto& row : result.counted) same(row.edge, row.kind);
  for (const auto& row : result.predicted) same(row.edge, row.kind);
  EXPECT_LE(result.holes.least, result.decided);
  EXPECT_LE(result.decided, result.holes.most);
}

}  // namespace headrace::test
