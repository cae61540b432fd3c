// Small random models on disk and runs of them, for the engine's property tests.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "engine/generator.h"
#include "engine/session.h"
#include "engine/synth.h"
#include "models/families.h"

namespace headrace::test {

// A config of `family` with random odd sizes; small enough that hundreds of runs take seconds.
inline json::object random_shape(Random& random, const std::string& family) {
  const models::Family& row = *models::find_family(family);
  const models::FieldNames& fields = row.fields;
  const uint64_t heads = random.between(1, 4) * 2, kv = heads / (random.chance(0.5) ? 2 : 1);
  const uint64_t head_dim = 8 * random.between(1, 4);
  const bool derived = family == "gpt2" || family == "opt" || family == "falcon";
  json::object set{{"vocab_size", random.between(270, 1500)},
                   {"tie_word_embeddings", random.chance(0.5)}};
  set[fields.hidden] = derived ? heads * head_dim : heads * 8 * random.between(1, 6);
  set[fields.intermediate] = random.between(40, 300);
  set[fields.layers] = random.between(1, 4);
  set[fields.heads] = heads;
  set[fields.positions] = 256;
  if (fields.kv_heads != nullptr) set[fields.kv_heads] = kv;
  if (!derived && family != "gpt_neox") set["head_dim"] = head_dim;
  if (family == "gpt_neox") set["rotary_pct"] = 0.5;
  if (family == "falcon") set["new_decoder_architecture"] = random.chance(0.5);
  if (family.starts_with("gemma")) set["sliding_window"] = random.between(3, 40);
  if (row.names.experts.router == nullptr) return set;
  set[family == "mixtral" ? "num_local_experts" : "num_experts"] = random.between(3, 8);
  set["num_experts_per_tok"] = random.between(1, 3);
  set["moe_intermediate_size"] = random.between(20, 100);
  set["shared_expert_intermediate_size"] = random.between(20, 100);
  if (random.chance(0.3)) set["mlp_only_layers"] = json::array{0};
  return set;
}

inline void make_model(const std::string& path, Random& random, const std::string& family,
                       const std::string& dtype) {
  engine::synthesize(path,
                     {.family = family,
                      .set = random_shape(random, family),
                      .dtype = dtype,
                      .seed = random.next_u64()},
                     {});
}

struct RunResult {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<float> logits;  // of every row sampled from, in order
  std::vector<scheduler::ByteRow> predicted;
  std::vector<swap::LedgerRow> counted;
  scheduler::HoleBytes holes;
  Bytes decided = 0;
  engine::ExecutorCounters executor;
  std::string policy;
  Bytes device_bytes = 0;  // of its arena
};

struct RunSpec {
  std::string model;
  engine::SessionOptions options;
  std::vector<engine::Request> requests;
};

inline RunResult run(const RunSpec& spec) {
  engine::ModelFolder folder = engine::open_model(spec.model);
  std::vector<engine::Request> requests = spec.requests;
  engine::Generator::check(folder.config, requests);
  engine::Session session(std::move(folder), 0, spec.options, engine::Generator::demand(requests));
  engine::Generator generator(session);
  RunResult result;
  for (const engine::Completion& c : generator.run(requests)) result.tokens.push_back(c.token_ids);
  result.counted = session.counted();
  result.predicted = session.predicted();
  result.holes = session.replay().range();
  result.decided = session.replay().bytes();
  result.executor = session.executor().counters();
  result.policy = session.plan().policy;
  result.device_bytes = session.plan().arena_bytes[0];
  return result;
}

inline std::vector<float> logits_of(const std::string& model, const engine::SessionOptions& options,
                                    const std::vector<int32_t>& ids) {
  engine::ModelFolder folder = engine::open_model(model);
  engine::Session session(std::move(folder), 0, options,
                          {.prompt_tokens = {static_cast<uint32_t>(ids.size())},
                           .max_tokens = {0},
                           .all_logits = true});
  std::vector<float> all;
  engine::score(session, ids, [&](uint32_t, std::span<const float> row) {
    all.insert(all.end(), row.begin(), row.end());
  });
  return all;
}

// The smallest budget for which `options` succeed, as the refusal names it. A device that is too
// small is made as large as its own refusal asks for.
inline Bytes smallest_budget(const std::string& model, engine::SessionOptions& options,
                             const std::vector<engine::Request>& requests) {
  for (Bytes memory : {4 * kGiB, kMiB}) {
    options.memory = memory;
    try {
      engine::ModelFolder folder = engine::open_model(model);
      engine::Session session(std::move(folder), 0, options, engine::Generator::demand(requests));
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kInfeasible) throw;
      if (memory == kMiB) return e.required_bytes();
      options.device_memory = e.required_bytes();
    }
  }
  return 0;
}

inline std::vector<int32_t> random_ids(Random& random, uint64_t vocabulary, uint64_t count) {
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(vocabulary));
  return ids;
}

inline uint64_t vocabulary_of(const std::string& model) {
  return engine::open_model(model).config.vocab_size;
}

}  // namespace headrace::test
