#include "engine/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>
#include <utility>

#include "core/checked.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/json.h"
#include "engine/calibrate.h"
#include "engine/in_place.h"
#include "engine/limits.h"
#include "engine/report.h"
#include "kernels/stack.h"
#include "scheduler/fill.h"
#include "scheduler/search.h"
#include "scheduler/verify.h"
#include "swap/busy.h"

namespace headrace::engine {

namespace {

namespace fs = std::filesystem;

constexpr uint32_t kRowsWanted = 512;  // more rows a pass gain nothing: products are compute-bound
constexpr uint32_t kSequencesMost = 4096;  // at a time, unless more are asked for
constexpr size_t kTraceEvents = 1 << 18;   // recorded past that: dropped, counted in the file

double since(double begin) { return steady_clock().seconds() - begin; }

std::string cache_root(const SessionOptions& options) {
  return options.cache.empty() ? default_cache_root() : options.cache;
}

std::string store_path(const SessionOptions& options, const ModelFolder& folder) {
  const std::string root = options.store.empty() ? cache_root(options) + "/stores" : options.store;
  return root + "/" + store_key(folder);
}

Bytes in_flight_of(const scheduler::Machine& machine) {
  return machine.disk_in_flight != 0 ? machine.disk_in_flight
                                     : swap::PagerOptions{}.bytes_in_flight;
}

scheduler::Machine machine_for(const SessionOptions& options, const kernels::Kernels& k,
                               ThreadPool& pool, const SafetensorsFolder* in_place) {
  const std::string root = cache_root(options);
  CalibrateOptions how{.cache_file = root + "/machine.json",
                       .scratch_folder = options.store.empty() ? root + "/stores" : options.store};
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
      if (disk)
        rate.bytes_per_s = std::min(rate.bytes_per_s, static_cast<double>(options.disk_rate));
    }
  }
  return machine;
}

}  // namespace

scheduler::Workload make_workload(const models::ModelConfig& config, const std::string& name,
                                  const models::WeightLayout& layout,
                                  const models::Decoder& decoder, Bytes tokenizer_bytes,
                                  const Demand& demand, uint32_t concurrent, const char* isa) {
  scheduler::Workload w;
  w.model = name;
  w.objects = layout.specs();
  w.segments = decoder.segments();
  uint64_t prompt = 0, longest = 1;
  std::vector<uint32_t> blocks;
  for (size_t i = 0; i < demand.prompt_tokens.size(); ++i) {
    const uint64_t tokens = uint64_t{demand.prompt_tokens[i]} + demand.max_tokens[i];
    prompt += demand.prompt_tokens[i];
    longest = std::max(longest, tokens);
    blocks.push_back(kv_blocks_for(tokens));
  }
  std::sort(blocks.rbegin(), blocks.rend());
  uint64_t kv_blocks = 0;
  for (size_t i = 0; i < std::min<size_t>(concurrent, blocks.size()); ++i) kv_blocks += blocks[i];
  size_t chunks = 0;
  for (const ObjectSpec& object : w.objects) chunks += object.chunks.size();
  const uint32_t generated =
      demand.max_tokens.empty()
          ? 1
          : *std::max_element(demand.max_tokens.begin(), demand.max_tokens.end());
  const Bytes one = decoder.activation_bytes(1, 1);
  const Bytes of_requests = demand.held +
                            kv_blocks * kernels::kKvBlockTokens * demand.held_per_token +
                            KvCache::bytes_for(kv_blocks, concurrent, kv_blocks_for(longest));
  w.needs = {.base = base_bytes(tokenizer_bytes, chunks, config.vocab_size) +
                     round_up(of_requests, kBlock),
             .kv_block = decoder.kv_block_bytes(),
             .kv_blocks = static_cast<uint32_t>(std::clamp<uint64_t>(kv_blocks, 1, kNone)),
             .activation_per_row = decoder.activation_bytes(2, 1) - one,
             .activation_per_output = decoder.activation_bytes(1, 2) - one,
             .io = kIoBytes};
  w.needs.activation_fixed = one - w.needs.activation_per_row - w.needs.activation_per_output;
  w.bf16_products = config.dtype == DType::kBF16;
  w.sequences = std::max(concurrent, 1u);
  w.prompt_tokens = static_cast<uint32_t>(std::clamp<uint64_t>(prompt, 1, 1u << 30));
  w.generated_tokens = std::max(generated, 1u);
  w.context = static_cast<uint32_t>(std::min<uint64_t>(longest, 1u << 30));
  w.rows_wanted = std::max<uint32_t>(w.sequences, std::min(kRowsWanted, w.prompt_tokens));
  w.outputs_max = demand.all_logits ? w.rows_wanted : w.sequences;
  w.numerics =
      fmt::format("weights {} activations float32 kv {} isa {} kv_block {}", name_of(config.dtype),
                  name_of(decoder.kv_type()), isa, kernels::kKvBlockTokens);
  return w;
}

Bytes base_bytes(Bytes tokenizer_bytes, size_t chunks, uint64_t vocabulary) {
  // Per chunk: its layout, spec, extent, tasks with uses and edges in the plan, executor and
  // verifier state. Per word: the sampler's order and weight.
  return round_up(kBaseBytes + tokenizer_bytes + chunks * kBytesPerChunk + vocabulary * 16, kBlock);
}

std::unique_ptr<Planned> make_plan(const models::ModelConfig& config, const std::string& name,
                                   Bytes tokenizer_bytes, const SessionOptions& options,
                                   const Demand& demand, const kernels::Kernels& k,
                                   ThreadPool& pool, const SafetensorsFolder* in_place) {
  auto planned = std::make_unique<Planned>();
  planned->layout = models::layout_of(config);
  planned->decoder = std::make_unique<models::Decoder>(config, planned->layout);
  planned->machine = machine_for(options, k, pool, in_place);
  planned->budgets = {
      .memory = options.memory ? *options.memory : round_down(available_memory() / 5 * 4, kBlock),
      .device_memory = options.device_memory,
      .kv_memory = options.kv_memory};
  const double begin = steady_clock().seconds();
  // All requests at once if their KV fits; otherwise fewer at a time, down to one.
  const size_t at_once = options.max_sequences == 0 ? kSequencesMost : options.max_sequences;
  const size_t requests = std::max<size_t>(1, demand.prompt_tokens.size());
  for (auto concurrent = static_cast<uint32_t>(std::min(at_once, requests));; concurrent /= 2) {
    planned->workload = make_workload(config, name, planned->layout, *planned->decoder,
                                      tokenizer_bytes, demand, concurrent, k.isa);
    planned->workload.needs.base += pool.threads() * kernels::kThreadStackBytes;
    if (in_place != nullptr) {
      plan_in_place(planned->workload, planned->layout, *in_place, in_flight_of(planned->machine));
    }
    if (!options.trace_file.empty()) {  // the events, and as much again while they are written
      planned->workload.needs.base += round_up(2 * kTraceEvents * sizeof(TraceEvent), kBlock);
    }
    try {
      if (options.plan_file.empty()) {
        planned->plan = scheduler::search(planned->workload, planned->machine, planned->budgets,
                                          options.choices);
      } else {
        planned->plan =
            scheduler::parse_plan(read_file(options.plan_file, 256 * kMiB), options.plan_file);
        adopt_plan(*planned, options);
      }
      break;
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kInfeasible || concurrent <= 1) throw;
    }
  }
  planned->planning_ms = since(begin) * 1e3;
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
  const scheduler::Needs& needs = w.needs;
  const auto rows = plus_pieces(needs.activation_fixed, plan.rows_max, needs.activation_per_row);
  cover(m.base, needs.base);
  cover(m.kv, plus_pieces(0, plan.kv_blocks, needs.kv_block));
  cover(m.activations, plus_pieces(rows, plan.outputs_max, needs.activation_per_output));
  cover(m.workspace, needs.workspace);
  cover(m.io, needs.io);
  m.slack = plan.arena_bytes[0] + plan.arena_bytes[1] - m.resident_weights - m.stream_ring;
  const Bytes needed = m.total();
  if (needed > std::max(plan.budget, planned.budgets.memory)) {
    refuse(fmt::format("this run takes {} with the plan, more than {}", format_bytes(needed),
                       format_bytes(std::max(plan.budget, planned.budgets.memory))));
  }
  plan.budget = std::max(plan.budget, needed);
  m.slack += plan.budget - needed;
  if (options.kv_memory && m.kv > *options.kv_memory) {
    refuse(fmt::format("the plan has {} of KV, more than --kv-memory", format_bytes(m.kv)));
  }
}

// ---- session

namespace {

constexpr double kWriterPatienceS = 600;  // without a byte written
constexpr int kTriesMax = 8;              // others may begin, end or look at any moment
constexpr auto kBetweenTries = std::chrono::milliseconds(100);

// What `use` of the store in `path` returns, once no other process makes that store.
template <typename Use>
bool while_free(const SessionOptions& options, const std::string& path, const Use& use) {
  for (int tries = 1;; ++tries) {
    if (swap::writer_at_work(path)) {
      if (options.note) {
        options.note(fmt::format("waiting for another process, which makes the store {}", path));
      }
      swap::wait_for_writer(path, kWriterPatienceS, [&] {
        if (options.progress) options.progress("prepare", 0, 0);  // may end the run
      });
    }
    try {
      return use();
    } catch (const Error& error) {
      const bool busy = error.code() == ErrorCode::kFailed && error.path() == path;
      if (!busy || tries == kTriesMax) throw;
    }
    std::this_thread::sleep_for(kBetweenTries);
  }
}

}  // namespace

Session::Session(ModelFolder folder, Bytes tokenizer_bytes, SessionOptions options,
                 const Demand& demand)
    : options_(std::move(options)),
      folder_(std::move(folder)),
      k_(kernels::kernels_for(options_.isa)),
      pool_(options_.threads != 0 ? options_.threads : available_threads()) {
  const bool in_place = options_.store == kStoreNone;
  const std::string path = in_place ? "" : store_path(options_, folder_);
  std::optional<SafetensorsFolder> files;
  const auto open = [&] { return open_store(path); };
  if (in_place || !while_free(options_, path, open)) files = open_weights(folder_);
  planned_ = make_plan(folder_.config, folder_.name, tokenizer_bytes, options_, demand, k_, pool_,
                       in_place ? &*files : nullptr);
  if (in_place) {
    store_ = open_in_place(folder_, *files, planned_->layout, k_);
    files.reset();
  } else if (files) {
    const double begin = steady_clock().seconds();
    bool first = true;
    const auto make = [&] {
      if (!std::exchange(first, false) && open_store(path)) return true;  // others were faster
      prepared_ = prepare(folder_, *files, planned_->layout, path, options_.disk_memory, k_,
                          [&](Bytes done, Bytes total) {
                            if (options_.progress) options_.progress("prepare", done, total);
                          });
      return open_store(path);
    };
    if (!while_free(options_, path, make)) {
      throw Error(ErrorCode::kFailed,
                  fmt::format("{}: the store changed while it was opened; run again", path))
          .at_path(path);
    }
    files.reset();
    timings_.prepare_s = since(begin);
  }
  allocate_and_load(demand);
}

Session::~Session() {
  executor_.reset();
  pager_.reset();  // drains before the arenas go
}

// True when the folder's store is there and still belongs to it.
bool Session::open_store(const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return false;
  try {
    store_ = swap::Store::open(path);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kFormat) throw;
    if (options_.note) options_.note(fmt::format("rebuilding the store: {}", e.what()));
    return false;
  }
  if (store_->info().fingerprint != fingerprint(folder_)) {
    store_.reset();
    if (options_.note) options_.note("rebuilding the store: the model folder has changed");
    return false;
  }
  folder_.config.dtype = stored_dtype(*store_);
  return true;
}

void Session::allocate_and_load(const Demand& demand) {
  const double begin = steady_clock().seconds();
  const scheduler::Plan& plan = planned_->plan;
  const scheduler::Workload& w = planned_->workload;
  check_store();
  if (!options_.trace_file.empty()) {
    trace_ = std::make_unique<Trace>(std::vector<std::string>{"compute", "disk read", "copy"},
                                     kTraceEvents);
  }
  device_ = Arena(plan.arena_bytes[0]);
  host_ = Arena(plan.arena_bytes[1]);
  const Bytes activation_bytes =
      round_up(decoder().activation_bytes(plan.rows_max, plan.outputs_max), 64);
  work_ = Arena(activation_bytes + plan.kv_blocks * w.needs.kv_block);
  activations_ = decoder().bind(work_.span(0, activation_bytes), plan.rows_max, plan.outputs_max);
  uint32_t longest = 1;
  for (size_t i = 0; i < demand.prompt_tokens.size(); ++i) {
    longest =
        std::max(longest, kv_blocks_for(uint64_t{demand.prompt_tokens[i]} + demand.max_tokens[i]));
  }
  kv_ = std::make_unique<KvCache>(work_.span(activation_bytes, plan.kv_blocks * w.needs.kv_block),
                                  w.needs.kv_block, plan.kv_blocks, w.sequences, longest);
  const Bytes in_flight = in_flight_of(planned_->machine);
  std::vector<std::span<std::byte>> buffers;  // reads go to the host alone
  if (host_.size() != 0) buffers.push_back(host_.span(0, host_.size()));
  if (const swap::Unpacking* form = store_->unpacking(); form != nullptr) {
    arrivals_ = Arena(swap::unpacking_room(form->read_bytes_most(), in_flight));
    buffers.push_back(arrivals_.span(0, arrivals_.size()));
  }
  pager_ = swap::make_pager(*store_, {.engine = options_.io_engine,
                                      .bytes_in_flight = in_flight,
                                      .disk_rate = options_.disk_rate,
                                      .trace = trace_.get(),
                                      .buffers = buffers,
                                      .room = arrivals_.span(0, arrivals_.size()),
                                      .note = options_.note});
  if (options_.note && !pager_->caps().note.empty()) options_.note(pager_->caps().note);
  for (const scheduler::Pool& pool : plan.pools) {
    replay_.push_back(scheduler::initial_state(pool));
    decided_.push_back({.edge = {Tier::kDisk, pool.tier}, .kind = Kind::kWeights});
  }
  executor_ = std::make_unique<Executor>(Executor::Parts{
      .plan = plan,
      .workload = w,
      .decoder = decoder(),
      .pager = *pager_,
      .device = device_.span(0, device_.size()),
      .host = host_.span(0, host_.size()),
      .context = {k_, pool_},
      .trace = trace_.get(),
      .decisions = [this](uint32_t hole,
                          std::span<const uint32_t> choices) { replay(hole, choices); },
      .routes =
          [this](uint32_t layer, std::span<const uint32_t> experts) {
            if (routes_) routes_(layer, experts);
          }});
  executor_->enter([this, begin](Bytes done, Bytes total) {
    if (options_.progress) options_.progress("load", done, total);
    if (done == total) timings_.load_s = since(begin);
  });
}

// The store's extents must be what the plan moves: chunk for chunk.
void Session::check_store() const {
  const std::vector<ObjectSpec>& objects = planned_->workload.objects;
  bool same = store_->objects() == objects.size();
  for (ObjectId id = 0; same && id < objects.size(); ++id) {
    const auto extents = store_->extents(id);
    same = extents.size() == objects[id].chunks.size();
    for (size_t c = 0; same && c < extents.size(); ++c) {
      same = extents[c].bytes == objects[id].chunks[c];
    }
  }
  if (same) return;
  throw Error(
      ErrorCode::kFormat,
      fmt::format("{}: the store's extents are not this model's; remove it with `headrace store "
                  "remove` and run again",
                  store_->info().path))
      .at_path(store_->info().path);
}

void Session::run(const models::Pass& pass) {
  pass_rows_ = static_cast<uint32_t>(pass.tokens.size());
  executor_->run(*activations_, pass);
  if (trace_) trace_resident();
}

// Counters of the trace: weights that each tier holds, in place, in rings and in filled pool slots.
void Session::trace_resident() {
  const scheduler::Plan& plan = planned_->plan;
  Bytes held[2] = {};  // device, host
  const auto at = [&](Tier tier) -> Bytes& { return held[tier == Tier::kDevice ? 0 : 1]; };
  for (const scheduler::Resident& r : plan.residents)
    at(r.tier) += planned_->workload.objects[r.object].chunks[r.chunk];
  for (const scheduler::Ring& ring : plan.rings) at(ring.tier) += ring.slots * ring.slot_bytes;
  for (size_t i = 0; i < plan.pools.size(); ++i) {
    const auto& slots = replay_[i].slots;
    at(plan.pools[i].tier) +=
        plan.pools[i].slot_bytes *
        static_cast<Bytes>(std::count_if(slots.begin(), slots.end(), [](const auto& entry) {
          return entry.key != scheduler::PoolState::Entry{}.key;
        }));
  }
  const uint64_t now = trace_->now_ns();
  for (const size_t tier : {0u, 1u}) {
    if (plan.arena_bytes[tier] == 0) continue;
    trace_->record({.name = tier == 0 ? "resident device" : "resident host",
                    .is_counter = true,
                    .bytes = held[tier],
                    .begin_ns = now,
                    .end_ns = now});
  }
}

void Session::replay(uint32_t hole_index, std::span<const uint32_t> choices) {
  const scheduler::Plan& plan = planned_->plan;
  const scheduler::Hole& hole = plan.holes[hole_index];
  if (hole.pool == kNone) return;
  scheduler::fill(plan, planned_->workload, hole, choices, replay_[hole.pool], replayed_);
  decided_[hole.pool].bytes += replayed_.bytes;
  decided_[hole.pool].operations += replayed_.operations;
  decided_by_hole_.resize(plan.holes.size());
  decided_by_hole_[hole_index] += replayed_.bytes;
  if (ranges_.empty()) ranges_.resize(plan.holes.size());
  RowRange& range = ranges_[hole_index];
  if (range.rows != pass_rows_) {
    range = {pass_rows_, scheduler::hole_bytes(plan, planned_->workload, hole, pass_rows_)};
  }
  hole_range_.least += range.bytes.least;
  hole_range_.most += range.bytes.most;
}

std::vector<scheduler::ByteRow> Session::predicted() const {
  std::vector<scheduler::ByteRow> rows;
  const auto add = [&](const scheduler::ByteRow& row, uint64_t times) {
    auto it = std::find_if(rows.begin(), rows.end(), [&](const scheduler::ByteRow& r) {
      return r.edge == row.edge && r.kind == row.kind;
    });
    if (it == rows.end()) it = rows.insert(rows.end(), {.edge = row.edge, .kind = row.kind});
    it->bytes += row.bytes * times;
    it->operations += row.operations * times;
  };
  for (const auto& row : scheduler::bytes_of(planned_->plan.enter)) add(row, 1);
  for (const auto& row : scheduler::bytes_of(planned_->plan.steady)) {
    add(row, executor_->counters().passes);
  }
  for (const auto& row : decided_) add(row, row.bytes != 0 ? 1 : 0);
  return rows;
}

Bytes Session::decided_bytes() const {
  Bytes sum = 0;
  for (const scheduler::ByteRow& row : decided_) sum += row.bytes;
  return sum;
}

std::vector<swap::LedgerRow> Session::counted() {
  executor_->drain();
  return pager_->ledger().rows();
}

void Session::finish_trace() {
  if (!trace_) return;
  executor_->drain();
  trace_->write(options_.trace_file, "\"run\":" + to_text(trace_json(*this)));
}

}  // namespace headrace::engine
