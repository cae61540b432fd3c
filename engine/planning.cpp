// The planning half of a session: from a config and a demand to a workload and its plan.
#include "engine/planning.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/checked.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/json.h"
#include "engine/calibrate.h"
#include "engine/in_place.h"
#include "engine/limits.h"
#include "engine/report.h"
#include "engine/usage.h"
#include "kernels/stack.h"
#include "scheduler/kv.h"
#include "scheduler/search.h"
#include "scheduler/shapes.h"
#include "scheduler/verify.h"

namespace headrace::engine {

namespace {

constexpr uint32_t kRowsWanted = 512;  // more rows a pass gain nothing: products are compute-bound
constexpr uint32_t kSequencesMost = 4096;  // at a time, unless more are asked for

std::string cache_root(const SessionOptions& options) {
  return options.cache.empty() ? default_cache_root() : options.cache;
}

scheduler::Machine machine_for(const SessionOptions& options, const kernels::Kernels& k,
                               ThreadPool& pool, const SafetensorsFolder* in_place) {
  const std::string root = cache_root(options);
  CalibrateOptions how{.cache_file = root + "/machine.json",
                       .scratch_folder = stores_folder(options)};
  if (in_place != nullptr) {  // the largest: it has enough to read
    how.read_file = std::max_element(in_place->files.begin(), in_place->files.end(),
                                     [](const auto& a, const auto& b) { return a.size < b.size; })
                        ->path;
  }
  scheduler::Machine machine =
      options.machine_file.empty() ? calibrate(how, k, pool) : read_machine(options.machine_file);
  if (options.disk_rate != 0) {
    for (scheduler::Rate& rate : machine.rates) {
      const bool disk = rate.edge.from == Tier::kDisk || rate.edge.to == Tier::kDisk;
      const auto most = static_cast<double>(options.disk_rate);
      if (!disk || rate.bytes_per_s <= most) continue;
      rate.own_bytes_per_s = rate.bytes_per_s;
      rate.bytes_per_s = most;
    }
  }
  return machine;
}

// What may run at a time: `most` requests, half of them, and half again, down to one; with the KV
// of the largest so many. `blocks` is sorted, the largest first.
std::vector<scheduler::AtATime> at_a_time(const std::vector<uint32_t>& blocks, uint32_t most,
                                          const Demand& demand) {
  std::vector<scheduler::AtATime> out;
  for (uint32_t n = std::max(1u, most); n > 0; n /= 2) {
    uint64_t sum = 0;
    for (size_t i = 0; i < std::min<size_t>(n, blocks.size()); ++i) sum += blocks[i];
    sum = std::clamp<uint64_t>(sum, 1, kNone);
    const Bytes account = demand.held + sum * kernels::kKvBlockTokens * demand.held_per_token +
                          KvCache::bytes_for(sum, n, blocks.empty() ? 1 : blocks.front());
    out.push_back({n, static_cast<uint32_t>(sum), round_up(account, kBlock)});
  }
  return out;
}

// Makes the workload what the plan runs at a time.
void use_plan(scheduler::Workload& w, const scheduler::Plan& plan) {
  const auto fits = [&](const scheduler::AtATime& at) { return at.kv_blocks <= plan.kv_blocks; };
  const auto at = std::find_if(w.at_a_time.begin(), w.at_a_time.end(), fits);
  scheduler::use(w, {.at = at == w.at_a_time.end() ? w.at_a_time.back() : *at,
                     .streamed = static_cast<uint32_t>(plan.kv.streamed.size()),
                     .slots = plan.kv.slots});
}

}  // namespace

std::string stores_folder(const SessionOptions& options) {
  const bool named = !options.store.empty() && options.store != kStoreNone;
  return named ? options.store : cache_root(options) + "/stores";
}

Bytes in_flight_of(const scheduler::Machine& machine) {
  return machine.disk_in_flight != 0 ? machine.disk_in_flight
                                     : swap::PagerOptions{}.bytes_in_flight;
}

scheduler::Workload make_workload(const models::ModelConfig& config, const std::string& name,
                                  const models::WeightLayout& layout,
                                  const models::Decoder& decoder, Bytes tokenizer_bytes,
                                  const Demand& demand, uint32_t concurrent, const char* isa) {
  scheduler::Workload w;
  w.model = name;
  w.objects = layout.specs();
  w.segments = decoder.segments();
  uint64_t prompt = 0, midway = 0;  // tokens; midway: of all requests in the middle of decoding
  std::vector<uint32_t> blocks;
  for (size_t i = 0; i < demand.prompt_tokens.size(); ++i) {
    const uint64_t tokens = uint64_t{demand.prompt_tokens[i]} + demand.max_tokens[i];
    prompt += demand.prompt_tokens[i];
    midway += demand.prompt_tokens[i] + demand.max_tokens[i] / 2;
    blocks.push_back(kv_blocks_for(tokens));
  }
  std::sort(blocks.rbegin(), blocks.rend());
  w.requests = static_cast<uint32_t>(blocks.size());
  w.at_a_time = at_a_time(blocks, concurrent, demand);
  size_t chunks = 0;
  for (const ObjectSpec& object : w.objects) chunks += object.chunks.size();
  const uint32_t generated =
      demand.max_tokens.empty()
          ? 1
          : *std::max_element(demand.max_tokens.begin(), demand.max_tokens.end());
  const Bytes one = decoder.activation_bytes(1, 1);
  w.needs = {.base = base_bytes(tokenizer_bytes, chunks, config.vocab_size),
             .kv_block = decoder.kv_block_bytes(),
             .kv_layer_block = decoder.kv_layer_bytes(),
             .kv_block_tokens = kernels::kKvBlockTokens,
             .activation_per_row = decoder.activation_bytes(2, 1) - one,
             .activation_per_output = decoder.activation_bytes(1, 2) - one,
             .io = kIoBytes};
  if (config.sliding_window != 0) {
    for (SegmentId id : scheduler::kv_segments(w)) {
      const bool slides = config.slides(w.segments[id].layer);
      w.needs.kv_windows.push_back(slides ? config.sliding_window : 0);
    }
  }
  w.needs.activation_fixed = one - w.needs.activation_per_row - w.needs.activation_per_output;
  w.bf16_products = config.dtype == DType::kBF16;
  w.prompt_tokens = static_cast<uint32_t>(std::clamp<uint64_t>(prompt, 1, 1u << 30));
  w.generated_tokens = std::max(generated, 1u);
  w.context = static_cast<uint32_t>(
      std::clamp<uint64_t>(midway / std::max<size_t>(1, blocks.size()), 1, 1u << 30));
  w.rows_prompt = std::min(kRowsWanted, w.prompt_tokens);
  w.all_outputs = demand.all_logits;
  scheduler::use(w, {.at = w.at_a_time.front()});
  w.numerics =
      fmt::format("weights {} activations float32 kv {} isa {} kv_block {}", name_of(config.dtype),
                  name_of(decoder.kv_type()), isa, kernels::kKvBlockTokens);
  return w;
}

Bytes memory_budget(const SessionOptions& options) {
  return options.memory ? *options.memory : round_down(available_memory() / 5 * 4, kBlock);
}

Bytes base_bytes(Bytes tokenizer_bytes, size_t chunks, uint64_t vocabulary) {
  // Per chunk: its layout, spec, extent, tasks with uses and edges in the plan, executor and
  // verifier state. Per word: the sampler's order and weight.
  return round_up(kBaseBytes + tokenizer_bytes + chunks * kBytesPerChunk + vocabulary * 16, kBlock);
}

std::unique_ptr<Planned> make_plan(const models::ModelConfig& config, const std::string& name,
                                   Bytes tokenizer_bytes, const SessionOptions& options,
                                   const Demand& demand, const kernels::Kernels& k,
                                   ThreadPool& pool, const std::string& usage_file,
                                   const SafetensorsFolder* in_place) {
  auto planned = std::make_unique<Planned>();
  planned->layout = models::layout_of(config);
  planned->decoder = std::make_unique<models::Decoder>(config, planned->layout);
  planned->machine = machine_for(options, k, pool, in_place);
  planned->budgets = {.memory = memory_budget(options),
                      .device_memory = options.device_memory,
                      .kv_memory = options.kv_memory,
                      .disk_used = options.disk_used};
  if (options.disk_memory) {
    planned->budgets.scratch =
        *options.disk_memory - std::min(*options.disk_memory, options.disk_used);
  }
  const double begin = steady_clock().seconds();
  const size_t at_once = options.max_sequences == 0 ? kSequencesMost : options.max_sequences;
  const size_t requests = std::max<size_t>(1, demand.prompt_tokens.size());
  planned->workload =
      make_workload(config, name, planned->layout, *planned->decoder, tokenizer_bytes, demand,
                    static_cast<uint32_t>(std::min(at_once, requests)), k.isa);
  planned->workload.localities =
      localities(read_usage(usage_file, planned->workload), planned->workload);
  planned->workload.needs.base += pool.threads() * kernels::kThreadStackBytes;
  if (in_place != nullptr) {
    plan_in_place(planned->workload, planned->layout, *in_place, in_flight_of(planned->machine));
  }
  if (!options.trace_file.empty()) {  // the events, and as much again while they are written
    planned->workload.needs.base += round_up(2 * kTraceEvents * sizeof(TraceEvent), kBlock);
  }
  if (options.plan_file.empty()) {
    planned->plan =
        scheduler::search(planned->workload, planned->machine, planned->budgets, options.choices);
    use_plan(planned->workload, planned->plan);
  } else {
    planned->plan =
        scheduler::parse_plan(read_file(options.plan_file, 256 * kMiB), options.plan_file);
    use_plan(planned->workload, planned->plan);
    adopt_plan(*planned, options);
  }
  planned->planning_ms = (steady_clock().seconds() - begin) * 1e3;
  return planned;
}

namespace {

// Bytes of `count` pieces and those before; refused where a plan's figures would wrap.
std::optional<Bytes> plus_pieces(std::optional<Bytes> sum, uint64_t count, Bytes each) {
  const auto pieces = checked_mul(count, each);
  return sum && pieces ? checked_add(*sum, *pieces) : std::nullopt;
}

}  // namespace

void adopt_plan(Planned& planned, const SessionOptions& options) {
  scheduler::Plan& plan = planned.plan;
  const scheduler::Workload& w = planned.workload;
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: {}; make a new one with `headrace plan -o`",
                                                options.plan_file, why))
        .at_path(options.plan_file)
        .at_field("--plan");
  };
  if (plan.workload_hash != scheduler::workload_hash(w))
    refuse("the plan was made for another model");
  if (options.memory && plan.budget > *options.memory) {
    refuse(fmt::format("the plan needs {}, more than --memory", format_bytes(plan.budget)));
  }
  if (options.device_memory && plan.arena_bytes[0] > *options.device_memory) {
    refuse(fmt::format("the plan puts {} on the device, more than --device-memory",
                       format_bytes(plan.arena_bytes[0])));
  }
  if (plan.kv_blocks < w.needs.kv_blocks) refuse("the plan has too little KV for these requests");
  scheduler::verify(plan, w);
  plan.numerics = w.numerics;  // of what runs, whatever the text says
  if (plan.kv.block_bytes != w.needs.kv_layer_block) {
    refuse(fmt::format("the plan has keys and values in blocks of {} bytes, not {}",
                       plan.kv.block_bytes, w.needs.kv_layer_block));
  }
  if (plan.outputs_max == 0 || plan.outputs_max > plan.rows_max) {
    refuse(fmt::format("the plan has {} outputs in {} rows", plan.outputs_max, plan.rows_max));
  }
  // What this run takes besides the weights, whatever the text says of it: out of the slack, then
  // out of what else the budget allows.
  const auto cover = [&](Bytes& part, std::optional<Bytes> need) {
    constexpr Bytes kMost = Bytes{1} << 60;  // all parts together stay within 64 bits
    part = std::max(part, need.value_or(kMost));
    if (part >= kMost) refuse("the plan's sizes are beyond all bounds");
  };
  scheduler::MemorySplit& m = plan.memory;
  scheduler::Needs needs = w.needs;
  needs.kv_blocks = plan.kv_blocks;
  const auto rows = plus_pieces(needs.activation_fixed, plan.rows_max, needs.activation_per_row);
  cover(m.base, plus_pieces(needs.base, 1, needs.requests));
  cover(m.kv, scheduler::kv_memory(needs));
  cover(m.activations, plus_pieces(rows, plan.outputs_max, needs.activation_per_output));
  cover(m.workspace, plus_pieces(needs.workspace, 1, scheduler::kv_account(needs)));
  cover(m.io, needs.io);
  m.slack = plan.arena_bytes[0] + plan.arena_bytes[1] - m.resident_weights - m.stream_ring;
  const Bytes needed = m.total();
  if (needed > std::max(plan.budget, planned.budgets.memory)) {
    refuse(fmt::format("this run takes {} with the plan, more than {}", format_bytes(needed),
                       format_bytes(std::max(plan.budget, planned.budgets.memory))));
  }
  if (const Bytes there = available_memory(); !options.memory && needed > there) {
    throw Error(ErrorCode::kInfeasible,
                fmt::format("{}: the plan takes {}, but this machine has {}; make one for it with "
                            "`headrace plan -o`",
                            options.plan_file, format_bytes(needed), format_bytes(there)))
        .at_path(options.plan_file)
        .at_field("--plan")
        .requiring(needed);
  }
  plan.budget = std::max(plan.budget, needed);
  m.slack += plan.budget - needed;
  if (options.kv_memory && m.kv > *options.kv_memory) {
    refuse(fmt::format("the plan has {} of KV, more than --kv-memory", format_bytes(m.kv)));
  }
}

}  // namespace headrace::engine
